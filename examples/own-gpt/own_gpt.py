"""A GPT of one's own: every command of the harness runs it, as `--model own_gpt:load`.

The weights are random and do not know any language. Load yours in `load`.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HEADS, CONTEXT = 2, 2, 256


class Block(nn.Module):
    """Attention to earlier tokens, then a layer for each token by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.norm_2(x))


class OwnGPT(nn.Module):
    """Token ids (B, T) -> logits (B, T, V): that is all the harness asks of a model."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.block_size = CONTEXT  # read by the harness; otherwise give --context
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def load(width: str = "32") -> tuple[nn.Module, Tokenizer]:
    """Model and tokenizer; `--model-option width=64` is the argument."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: i for i, token in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    model = OwnGPT(int(width), len(tokens))
    # model.load_state_dict(torch.load("my_gpt.pt", weights_only=True))
    return model, tokenizer
