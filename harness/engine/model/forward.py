"""One model's forward pass in the forms the engine needs: trunk, head, and rows that are trees.

Letters: B rows of a batch, T padded tokens of a row, M tokens fed after a prefill, H width of
the hidden states, V vocabulary.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from harness.engine.checkpoint.load import Checkpoint
from harness.engine.model.compiled import Compiled
from harness.engine.model.head import OwnHead, last_states
from harness.engine.model.last_block import only, position_wise
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.query import Sharing
from harness.errors import CheckpointError, short_reason

# Bytes of logits at a time. On a CPU, blocks beyond 32 MB come fresh from the system at every use.
_CPU_LOGITS, _ACCELERATOR_LOGITS = 20 << 20, 64 << 20
# Windows that are part of the mask, which a mask of ours replaces, and windows that layers apply
# by themselves, to columns.
_MASKED_WINDOWS = ("sliding_window", "attention_chunk_size")
_OWN_WINDOWS = ("window_size", "local_attention_window")
_ATTENTION_OVERHEAD = 2.0  # masked attention runs at about half the rate of plain products


class Forward:
    """Calls a checkpoint's trunk and head.

    The head is applied to chosen hidden states only. Where a plain product does not give the
    model's own logits (soft-capping, scaling), `probe` has found the model's own steps, or `whole`
    is set and the trunk returns logits.

    Attributes:
        whole: whether logits are computed for every position, because there is no other way.
        last_block: modules of the last block that compute only what is read.
        takes_cache: whether keys and values can be kept.
        rope_limit: length beyond which all positions of a call are rotated otherwise; None if there
            is none. Under longrope and dynamic RoPE the model chooses its frequencies by the
            largest position id of the whole call. A row of at most so many tokens must not share a
            call with a longer one, and a longer one shares a call, a prefix or cached keys with
            rows of its own length alone.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = checkpoint.model
        self.device = checkpoint.device
        self.context = checkpoint.identity.context
        limit = _rope_limit(self.model.config.get_text_config())
        self.rope_limit = limit if limit is not None and limit < self.context else None
        self._buffer: Tensor | None = None
        self._compiled: Compiled | None = None
        self._bytes_per_token: int | None = None
        self.split(self.model.base_model)

    def split(self, trunk: Any, own_head: OwnHead | None = None) -> None:
        """Say how the model comes apart.

        Args:
            trunk: what gives hidden states; the model itself gives logits everywhere.
            own_head: what makes logits of them; None stands for the output embeddings.
        """
        self._base, self._own_head = trunk, own_head
        self.whole = trunk is self.model
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", 0)
        self.last_block = position_wise(trunk, layers)
        parameters = set(inspect.signature(trunk.forward).parameters)
        self._takes_use = "use_cache" in parameters
        self.takes_cache = "past_key_values" in parameters
        self._takes_tree = {"position_ids", "attention_mask", "past_key_values"} <= parameters

    @property
    def vocabulary(self) -> int:
        """How many tokens there are to choose from."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def chunk(self) -> int:
        """For how many positions logits are computed at a time."""
        size = _CPU_LOGITS if self.device.type == "cpu" else _ACCELERATOR_LOGITS
        return max(16, size // (4 * self.vocabulary))

    def trunk(self, ids: Tensor, reads: Tensor | None = None, **tree: Any) -> Tensor:
        """Hidden states (B, T, H) of `ids` (B, T) on the plain causal path, or over trees.

        Right padding needs no mask on the causal path: no token sees a later one. `tree` holds
        `position_ids` (B, T), `attention_mask` (B, 1, T, past + T) and `past_key_values`.
        `reads` (N,) are those of the B * T states that will be read; the others may be anything.

        Raises:
            CheckpointError: the model itself fails on the plain causal path.
        """
        if self._compiled and all(value is None for value in tree.values()):
            return self._compiled(ids)
        if reads is not None and 2 * len(reads) <= ids.numel():
            with only(self.last_block, reads):
                return self.trunk(ids, **tree)
        if self._takes_use:
            tree.setdefault("use_cache", tree.get("past_key_values") is not None)
        try:
            output = self._base(input_ids=ids, **tree)
        except Exception as error:  # models raise whatever their own code raises
            if is_out_of_memory(error) or tree.get("attention_mask") is not None:
                raise
            raise CheckpointError(
                f"the model's own pass over {ids.shape[1]} tokens ends in {type(error).__name__}: "
                f"{short_reason(error)}; try a smaller --context"
            ) from error
        states = output.logits if self.whole else last_states(output)
        assert states is not None, "a trunk is what returns hidden states"
        return states

    def compile(self, budget: int) -> None:
        """Compile the plain causal path for batches of so many padded tokens."""
        if not self.whole:
            self._compiled = Compiled(self._base, budget, self.context)

    def head(self, states: Tensor) -> Tensor:
        """Logits (N, V) in float32 of hidden states (N, H); the next call may overwrite them.

        A plain linear head writes into one buffer: fresh memory for tens of megabytes costs a CPU
        a third of the product itself.
        """
        if self.whole:
            return states.float()
        if self._own_head is not None:
            return self._own_head(states).float()
        return self.product(states)

    def product(self, states: Tensor) -> Tensor:
        """Logits (N, V) in float32 as the output embeddings alone give them."""
        head = self.model.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.bias is not None:
            logits: Tensor = head(states)
            return logits.float()
        n, v = len(states), head.weight.shape[0]
        if self._buffer is None or len(self._buffer) < n:
            self._buffer = torch.empty((n, v), dtype=states.dtype, device=states.device)
        return torch.mm(states, head.weight.t(), out=self._buffer[:n]).float()

    def empty_cache(self) -> Any:
        """A key-value cache to prefill, as the config, or the model itself, wants it."""
        from transformers import DynamicCache

        own = _own_cache_class(self._base.forward)
        return DynamicCache(config=self.model.config) if own is None else own()

    @staticmethod
    def full_cache() -> Any:
        """A key-value cache that keeps every column, for rows whose mask says what is seen.

        One made after the config lets columns of layers with an attention window go.
        """
        from transformers import DynamicCache

        return DynamicCache()

    def cache_bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers, at least 1.

        Measured on two made-up tokens: heads and their sizes may differ from layer to layer, and
        some layers keep nothing. Judged by the config where the model fills no such cache.
        """
        if self._bytes_per_token is None:
            try:
                self._bytes_per_token = self._measured_bytes_per_token()
            except Exception:  # models raise whatever their own code raises
                self._bytes_per_token = self._declared_bytes_per_token()
        return max(1, self._bytes_per_token)

    def _measured_bytes_per_token(self) -> int:
        ids = torch.zeros((1, 2), dtype=torch.long, device=self.device)
        cache = self.empty_cache()
        with torch.inference_mode():
            self._base(input_ids=ids, past_key_values=cache, use_cache=True)
        kept = [x for layer in cache.layers for x in _keys_and_values(layer)]
        return sum(x.numel() * x.element_size() for x in kept) // ids.numel()

    def _declared_bytes_per_token(self) -> int:
        config = self.model.config.get_text_config()
        width = getattr(config, "hidden_size", 0)
        layers = getattr(config, "num_hidden_layers", 0)
        return int(2 * layers * width * self.model.dtype.itemsize)

    def mask(self, allowed: Tensor) -> Tensor:
        """(B, 1, M, N) additive mask, in the model's dtype, of boolean `allowed` (B, M, N)."""
        dtype = self.model.dtype
        lowest = torch.finfo(dtype).min
        zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return zeros.masked_fill_(~allowed, lowest).unsqueeze(1)

    def sharing(self, max_row: int) -> tuple[Sharing | None, str]:
        """How rows may share prefixes, or None and the reason why they may not."""
        reason = self._limited()
        if reason:
            return None, reason
        config = self.model.config.get_text_config()
        embeddings = self.model.get_input_embeddings().weight.numel()
        trunk = max(1, sum(p.numel() for p in self._base.parameters()) - embeddings)
        window = _window(config, _MASKED_WINDOWS)
        max_row = min(max_row, window or max_row)  # caches and masks may count columns
        pair = 4 * config.hidden_size * config.num_hidden_layers
        return Sharing(_ATTENTION_OVERHEAD * pair / (2 * trunk), max_row), ""

    def _limited(self) -> str:
        """Why a tree mask would be wrong for this model, judged by signature and config."""
        if not self._takes_tree:
            return "the model takes no position ids with an attention mask"
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        windowed = kinds - {"full_attention"}
        own = _window(config, _OWN_WINDOWS)
        if own is not None:
            return f"layers see the last {own} tokens of a row, be they its path or another branch"
        window = _window(config, _MASKED_WINDOWS)
        if windowed - {"sliding_attention", "chunked_attention"}:
            return f"the model has layers of kind {', '.join(sorted(windowed))}"
        if window is not None and window < self.context and (windowed or not kinds):
            return f"layers see {window} tokens, less than the context of {self.context}"
        if windowed and window is None:
            return f"the model has layers of kind {', '.join(sorted(windowed))}"
        return ""


def _own_cache_class(forward: Any) -> Any:
    """The cache class that a model's `forward` names, where it takes no other."""
    from transformers import DynamicCache

    parameter = inspect.signature(forward).parameters.get("past_key_values")
    kinds = get_args(parameter.annotation) if parameter else ()
    own = (k for k in kinds if isinstance(k, type) and issubclass(k, DynamicCache))
    return next((kind for kind in own if kind is not DynamicCache), None)


def _keys_and_values(layer: Any) -> list[Tensor]:
    """Those that a layer of a cache holds; none where it keeps something else, or nothing."""
    pair = getattr(layer, "keys", None), getattr(layer, "values", None)
    return [x for x in pair if isinstance(x, Tensor)]


def _window(config: Any, names: Sequence[str]) -> int | None:
    """The shortest attention window that a config speaks of under one of these names."""
    if not getattr(config, "use_sliding_window", True):
        names = [name for name in names if name != "sliding_window"]
    sizes = [getattr(config, name, None) for name in names]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _rope_limit(config: Any) -> int | None:
    """The shortest length at which a config's RoPE changes its frequencies."""
    found: list[int] = []
    for name in ("rope_parameters", "rope_scaling"):
        given = getattr(config, name, None)
        if not isinstance(given, Mapping):
            continue
        for entry in (given, *given.values()):  # some models have one for each kind of layer
            if not isinstance(entry, Mapping):
                continue
            kind = entry.get("rope_type", entry.get("type"))
            if kind in ("longrope", "su", "dynamic"):
                sizes = [
                    entry.get("original_max_position_embeddings"),
                    getattr(config, "original_max_position_embeddings", None),
                    getattr(config, "max_position_embeddings", None),
                ]
                of = [s for s in (sizes[2:] if kind == "dynamic" else sizes) if s]
                found += of[:1]
    return min(map(int, found), default=None)


def tree_allowed(ends: Tensor, begin: int = 0) -> Tensor:
    """(B, T - begin, T) boolean: may token i see j? Exactly if j is its ancestor or itself.

    `ends` (B, T) says where the subtree of each token ends (`prefix_tree`); rows begin
    with token i = `begin`.
    """
    j = torch.arange(ends.shape[1], device=ends.device)
    i = j[begin:, None]
    return (j <= i) & (i < ends[:, None, :])
