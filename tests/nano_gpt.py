"""A small GPT of nanoGPT's kind: the same tensors, settings and way to be called."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import byte_tokenizer
from torch import Tensor, nn
from torch.nn import functional

TOKENIZER = byte_tokenizer()


@dataclass
class Config:
    block_size: int = 64
    vocab_size: int = len(TOKENIZER)
    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 32
    dropout: float = 0.2
    bias: bool = True


class Norm(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    scale: float | None = None  # of the products of queries and keys; None: GPT-2's

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config.n_embd, config.n_head
        self.c_attn = nn.Linear(width, 3 * width, bias=config.bias)
        self.c_proj = nn.Linear(width, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        split = self.c_attn(x).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        projected: Tensor = self.c_proj(y.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    def __init__(self, config: Config, approximate: str) -> None:
        super().__init__()
        width = config.n_embd
        self.ln_1, self.ln_2 = Norm(config), Norm(config)
        self.attn = Attention(config)
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(width, 4 * width, bias=config.bias),
            "gelu": nn.GELU(approximate),
            "c_proj": nn.Linear(4 * width, width, bias=config.bias),
            "dropout": nn.Dropout(config.dropout),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        y = self.ln_2(x)
        for layer in self.mlp.values():
            y = layer(y)
        return x + y


class NanoGPT(nn.Module):
    """The logits of the last position, or of all if there are targets; and the loss."""

    def __init__(self, approximate: str = "none", **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = config = Config(**settings)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "wpe": nn.Embedding(config.block_size, config.n_embd),
            "h": nn.ModuleList(Block(config, approximate) for _ in range(config.n_layer)),
            "ln_f": Norm(config),
        })  # fmt: skip
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.transformer.wte(ids) + self.transformer.wpe(positions)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1]]), None
        logits = self.lm_head(x)
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def save(self, path: Path) -> Path:
        """Write what nanoGPT writes."""
        content = {"model": self.state_dict(), "model_args": asdict(self.config), "iter_num": 7}
        torch.save(content, path)
        return path


def load() -> tuple[nn.Module, Any]:
    """For `--model nano_gpt:load`."""
    return NanoGPT(), TOKENIZER
