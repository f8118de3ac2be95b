"""nanochat's architecture since 2026-03-14, as a causal language model of transformers.

It follows github.com/karpathy/nanochat at 92d63d4 (nanochat/gpt.py), written anew. A GPT with
rotary positions, normalised queries and keys, no biases, squared ReLU and capped logits, plus:

- smear: a gated share of the embedding before it is added to each token's embedding;
- every layer scales the residual stream, and adds a share of the embeddings to it;
- value embeddings: in every other layer, the token itself adds to its values, through a gate;
- some layers see only a window of tokens;
- backout: a share of the stream after the middle layer is subtracted at the end.

There is no KV cache. Letters: B rows, T tokens, C width, N heads, D width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from harness.engine.checkpoint.formats.nanochat.config import (
    MODEL_TYPE,
    SMEAR_CHANNELS,
    VALUE_CHANNELS,
    NanoChat2026Config,
    has_value_embedding,
)

ROPE_BASE = 100_000.0
SHARPNESS = 1.2  # factor of normalised queries, and of keys
VALUE_GATE_RANGE = 3.0

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (T, D / 2)


def norm(states: Tensor) -> Tensor:
    """RMS norm over the last dimension, without weights, with the epsilon of the dtype."""
    return F.rms_norm(states, states.shape[-1:])


def rotation(length: int, width: int, like: Tensor) -> Rotation:
    """The rotary table of the first positions, with the dtype and on the device of `like`."""
    channels = torch.arange(0, width, 2, dtype=torch.float32, device=like.device)
    positions = torch.arange(length, dtype=torch.float32, device=like.device)
    angles = torch.outer(positions, 1.0 / ROPE_BASE ** (channels / width))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotated(heads: Tensor, table: Rotation) -> Tensor:
    """Turn each pair (i, i + D/2) of (B, N, T, D) by minus its angle, nanochat's direction."""
    cos, sin = table
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


def window_mask(length: int, window: int, device: torch.device) -> Tensor | None:
    """(T, T) boolean: whether token i sees token j; None if it sees all tokens before it."""
    if length <= window + 1:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance <= window)


class Attention(nn.Module):
    """Attention with normalised queries and keys, and gated value embeddings in some layers."""

    def __init__(self, config: NanoChat2026Config, layer: int) -> None:
        super().__init__()
        width, kv_heads = config.hidden_size, config.num_key_value_heads
        self.head_width = width // config.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.value_gate = (
            nn.Linear(VALUE_CHANNELS, kv_heads, bias=False)
            if has_value_embedding(layer, config.num_hidden_layers)
            else None
        )

    def forward(
        self, states: Tensor, embedded: Tensor | None, table: Rotation, mask: Tensor | None
    ) -> Tensor:
        """States (B, T, C) of normalised states; `embedded` are the tokens' value embeddings."""
        shape = (*states.shape[:2], -1, self.head_width)  # (B, T, N, D)
        query, key, value = (
            project(states).view(shape) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.value_gate is not None and embedded is not None:
            gate = torch.sigmoid(self.value_gate(states[..., :VALUE_CHANNELS]))  # (B, T, N)
            value = value + VALUE_GATE_RANGE * gate[..., None] * embedded.view(shape)
        query, key = (
            SHARPNESS * norm(rotated(heads.transpose(1, 2), table)) for heads in (query, key)
        )
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        result: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two products with a squared ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        result: Tensor = self.fc2(F.relu(self.fc1(states)).square())
        return result


class Layer(nn.Module):
    """Attention and feed-forward part, each on normalised states and added to the stream."""

    def __init__(self, config: NanoChat2026Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config.hidden_size)

    def forward(
        self, stream: Tensor, embedded: Tensor | None, table: Rotation, mask: Tensor | None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        stream = stream + self.self_attn(norm(stream), embedded, table, mask)
        result: Tensor = stream + self.mlp(norm(stream))
        return result


class _Base(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What transformers has to know about trunk and model alike."""

    config_class = NanoChat2026Config
    base_model_prefix = "model"


class NanoChat2026Model(_Base):  # type: ignore[no-untyped-call]
    """The trunk: token ids to normalised hidden states."""

    def __init__(self, config: NanoChat2026Config) -> None:
        super().__init__(config)
        layers, width = config.num_hidden_layers, config.hidden_size
        self.head_width = width // config.num_attention_heads
        value_width = self.head_width * config.num_key_value_heads
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): nn.Embedding(config.vocab_size, value_width)
                for layer in range(layers)
                if has_value_embedding(layer, layers)
            }
        )
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(layers))
        self.resid_lambdas = nn.Parameter(torch.ones(layers))
        self.x0_lambdas = nn.Parameter(torch.zeros(layers))
        self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, use_cache: bool | None = None) -> BaseModelOutput:
        """Hidden states (B, T, C) of ids (B, T); without a cache, `use_cache` changes nothing."""
        length = input_ids.shape[1]
        embeddings = self._smeared(norm(self.embed_tokens(input_ids)))
        table = rotation(length, self.head_width, embeddings)
        windows = self.config.windows()
        masks = {w: window_mask(length, w, input_ids.device) for w in set(windows)}
        middle = len(self.layers) // 2
        stream = subtracted = embeddings
        for i, (layer, window) in enumerate(zip(self.layers, windows, strict=True)):
            stream = self.resid_lambdas[i] * stream + self.x0_lambdas[i] * embeddings
            name = str(i)
            embedded = self.value_embeds[name](input_ids) if name in self.value_embeds else None
            stream = layer(stream, embedded, table, masks[window])
            if i == middle:
                subtracted = stream
        states = norm(stream - self.backout_lambda * subtracted)
        return BaseModelOutput(last_hidden_state=states)

    def _smeared(self, states: Tensor) -> Tensor:
        """Add to each token a share of the one before it; the first has none."""
        here, before = states[:, 1:], states[:, :-1]
        gate = self.smear_lambda * torch.sigmoid(self.smear_gate(here[..., :SMEAR_CHANNELS]))
        return torch.cat([states[:, :1], here + gate * before], dim=1)


class NanoChat2026ForCausalLM(_Base):  # type: ignore[no-untyped-call]
    """The trunk with its head; logits are capped in float32."""

    def __init__(self, config: NanoChat2026Config) -> None:
        super().__init__(config)
        self.model = NanoChat2026Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> Any:
        """The head."""
        return self.lm_head

    def forward(self, input_ids: Tensor, use_cache: bool | None = None) -> CausalLMOutput:
        """Logits (B, T, V) of ids (B, T)."""
        states = self.model(input_ids, use_cache=use_cache).last_hidden_state
        cap = self.config.final_logit_softcapping
        return CausalLMOutput(logits=cap * torch.tanh(self.lm_head(states).float() / cap))


def register() -> None:
    """Let transformers load models of this type; repeated calls do no harm."""
    AutoConfig.register(MODEL_TYPE, NanoChat2026Config, exist_ok=True)
    AutoModelForCausalLM.register(NanoChat2026Config, NanoChat2026ForCausalLM, exist_ok=True)
