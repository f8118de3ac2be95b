"""The config of nanochat's current architecture, under a model type of its own.

transformers knows only nanochat's first architecture. `model` has the current one.
"""

from transformers import PreTrainedConfig

# Part of a checkpoint's digest: a model that computes something else needs another type.
MODEL_TYPE = "nanochat-2026"
SMEAR_CHANNELS, VALUE_CHANNELS = 24, 12  # leading channels that the gates read
_SHORT_SHARE, _WINDOW_STEP = 4, 128  # a short window is a quarter of the context, rounded up


class NanoChat2026Config(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of a model; the defaults are those of nanochat's d12."""

    model_type = MODEL_TYPE

    vocab_size: int = 32768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    max_position_embeddings: int = 2048
    window_pattern: str = "SSSL"  # S short, L long; repeated over the layers, and the last is long
    final_logit_softcapping: float = 15.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def windows(self) -> list[int]:
        """For each layer, how many tokens before a token it sees, besides the token itself."""
        context = self.max_position_embeddings
        short = -(-context // (_SHORT_SHARE * _WINDOW_STEP)) * _WINDOW_STEP
        pattern = self.window_pattern.upper()
        letters = [pattern[i % len(pattern)] for i in range(self.num_hidden_layers)]
        return [short if letter == "S" else context for letter in letters[:-1]] + [context]


def has_value_embedding(layer: int, layers: int) -> bool:
    """Whether a layer adds value embeddings: the last one does, and every other one before it."""
    return (layers - 1 - layer) % 2 == 0
