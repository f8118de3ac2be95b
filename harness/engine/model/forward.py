"""One model's forward pass: trunk, head, KV caches, and the masks of rows that are trees.

Letters: B rows of a batch, T padded tokens of a row, M tokens fed after a prefill, H width of
the hidden states, V vocabulary.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.own.adapter import OwnModel, vocabulary
from harness.engine.model import caches
from harness.engine.model.compiled import CompiledTrunk
from harness.engine.model.head import OwnHead, last_states
from harness.engine.model.last_block import only, position_wise
from harness.engine.model.masks import Mask, Reach, masks, reaches
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.model.self_test_results import SelfTestResults
from harness.engine.queries.query import Sharing
from harness.errors import CheckpointError, short_reason

# Bytes of logits at a time. On a CPU, blocks beyond 32 MB are allocated anew at every use.
_CPU_LOGITS, _ACCELERATOR_LOGITS = 20 << 20, 64 << 20
_COLUMN_WINDOWS = ("window_size", "local_attention_window")  # applied by layers, to columns
_ATTENTION_OVERHEAD = 2.0  # masked attention runs at about half the rate of plain products


class Forward:
    """Runs a checkpoint's trunk and head.

    The head is applied only to the hidden states that are read. Where a plain product does not give
    the model's own logits (soft-capping, scaling), `capabilities` finds the model's own steps, or
    sets `all_logits`.

    Attributes:
        all_logits: whether the trunk returns logits at every position, the last resort.
        processes: number of those that compute together, each with a part of every matrix.
        last_block: modules of the last block that compute only what is read.
        self_tests: results of self-tests that have run, now or earlier.
        parameters: of the trunk's `forward`.
        takes_cache: whether the model takes a KV cache, or the state of its layers.
        rope_limit: length beyond which all positions of a call are rotated differently; None if
            there is none. Under longrope and dynamic RoPE the model chooses its frequencies by the
            largest position id of the whole call. A row within the limit must not share a call
            with a longer one, and a longer one shares a call, a prefix or cached keys only with
            rows of its own length.
    """

    def __init__(self, checkpoint: Checkpoint, self_tests: SelfTestResults | None = None) -> None:
        self.model = checkpoint.model
        self._lent = checkpoint.lent
        self.processes = checkpoint.tensor_parallel
        self.self_tests = self_tests or SelfTestResults()
        self.device = checkpoint.device
        self.context = checkpoint.identity.context
        limit = _rope_limit(self.model.config.get_text_config())
        self.rope_limit = limit if limit is not None and limit < self.context else None
        self._buffer: Tensor | None = None
        self._compiled: CompiledTrunk | None = None
        self._bytes_per_token: int | None = None
        self.split(self.model.base_model)

    def split(self, trunk: Any, own_head: OwnHead | None = None) -> None:
        """Set how the model splits into trunk and head.

        Args:
            trunk: returns hidden states; the model itself stands for logits at every position.
            own_head: turns states into logits; None stands for the output embeddings.
        """
        self._base, self._own_head = trunk, own_head
        self.all_logits = trunk is self.model
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", 0)
        self.last_block = position_wise(trunk, layers)
        self.parameters = caches.parameters(trunk)
        self._cache_argument = caches.cache_argument(self.parameters)
        self.takes_cache = bool(self._cache_argument)
        needed = {"position_ids", "attention_mask", "past_key_values"}
        self._takes_tree = needed <= self.parameters.keys()

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model can choose from."""
        return vocabulary(self.model)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        if isinstance(self.model, OwnModel):
            return self.model.width
        return int(self.model.get_input_embeddings().weight.shape[1])

    def inference(self) -> AbstractContextManager[None]:
        """A context in which nothing is recorded for gradients.

        A tensor made in inference mode could never take part in training again, and a lent model
        may keep one, such as a table of rotary positions.
        """
        return torch.no_grad() if self._lent else torch.inference_mode()

    @property
    def chunk(self) -> int:
        """Number of positions whose logits are computed at a time."""
        size = _CPU_LOGITS if self.device.type == "cpu" else _ACCELERATOR_LOGITS
        return max(16, size // (4 * self.vocabulary))

    def trunk(self, ids: Tensor, reads: Tensor | None = None, **tree: Any) -> Tensor:
        """Hidden states (B, T, H) of `ids` (B, T) on the plain causal path, or over trees.

        Right padding needs no mask on the causal path: no token sees a later one. `tree` contains
        `position_ids` (B, T), `attention_mask` as `mask` makes it, `past_key_values`, and what the
        attention function takes beside them.
        `reads` (N,) are those of the B * T states that will be read; the others are undefined.

        Raises:
            CheckpointError: the model itself fails on the plain causal path.
        """
        if self._compiled and all(value is None for value in tree.values()):
            return self._compiled(ids)
        if reads is not None and 2 * len(reads) <= ids.numel():
            with only(self.last_block, reads):
                return self.trunk(ids, **tree)
        tree = {name: value for name, value in tree.items() if value is not None}
        cache = tree.pop("past_key_values", None)
        if "use_cache" in self.parameters:
            tree["use_cache"] = cache is not None
        tree |= caches.passed(self._cache_argument, cache)
        try:
            output = self._base(input_ids=ids, **tree)
        except CheckpointError:
            raise
        except Exception as error:  # a model's own code may raise anything
            if is_out_of_memory(error) or tree.get("attention_mask") is not None:
                raise
            raise CheckpointError(
                f"the model's own pass over {ids.shape[1]} tokens ends in {type(error).__name__}: "
                f"{short_reason(error)}; try a smaller --context"
            ) from error
        caches.keep(self._cache_argument, cache, output)
        states = output.logits if self.all_logits else last_states(output)
        assert states is not None, "a trunk returns hidden states"
        return states.to(self.device)  # from that of the last layer, if it is another

    def compile(self, budget: int) -> None:
        """Compile the plain causal path for batches of `budget` padded tokens."""
        if not self.all_logits:
            self._compiled = CompiledTrunk(self._base, budget, self.context, self.rope_limit)

    def limit_compiled(self, budget: int) -> None:
        """Let compiled passes compute no more than `budget` padded tokens from now on."""
        if self._compiled:
            self._compiled.budget = budget

    def head(self, states: Tensor) -> Tensor:
        """Logits (N, V) in float32 of hidden states (N, H); the next call may overwrite them."""
        if self.all_logits:
            return states.float()
        if self._own_head is not None:
            return self._own_head(states).float()
        return self.product(states)

    def product(self, states: Tensor) -> Tensor:
        """Logits (N, V) in float32 by the output embeddings alone.

        A plain linear head writes into one buffer: allocating tens of megabytes costs a CPU a third
        of the product itself.
        """
        head = self.model.get_output_embeddings()
        is_plain = type(head) is torch.nn.Linear and head.bias is None
        if not is_plain or "forward" in vars(head):  # its weight may be elsewhere, or in parts
            logits: Tensor = head(states)
            return logits.float()
        n, v = len(states), head.weight.shape[0]
        if self._buffer is None or len(self._buffer) < n:
            self._buffer = torch.empty((n, v), dtype=states.dtype, device=states.device)
        return torch.mm(states, head.weight.t(), out=self._buffer[:n]).float()

    def empty_cache(self) -> Any:
        """A cache of the kind that the model's config, or its `forward`, asks for."""
        parameter = self.parameters[self._cache_argument]
        return caches.empty_cache(parameter, self.model.config)

    @staticmethod
    def full_cache() -> Any:
        """A KV cache that keeps every column, for rows whose mask decides what is visible.

        A cache made from the config drops columns of layers with an attention window.
        """
        return DynamicCache()

    def cache_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers, at least 1.

        Measured on two tokens: heads and their sizes may differ from layer to layer, and some
        layers keep nothing. Estimated from the config where the model fills no such cache.
        """
        if self._bytes_per_token is None:
            ids = torch.zeros((1, 2), dtype=torch.long, device=self.device)
            try:
                cache = self.empty_cache()
                with self.inference():
                    self.trunk(ids, past_key_values=cache)
                tensors = [
                    getattr(x, name, None) for x in cache.layers for name in ("keys", "values")
                ]
                kept = [x for x in tensors if isinstance(x, Tensor)]
                size = sum(x.numel() * x.element_size() for x in kept) // ids.numel()
            except Exception:  # a model's own code may raise anything
                config = self.model.config.get_text_config()
                width = getattr(config, "hidden_size", 0)
                layers = getattr(config, "num_hidden_layers", 0)
                size = int(2 * layers * width * self.model.dtype.itemsize)
            self._bytes_per_token = max(1, size)
        return self._bytes_per_token

    def mask(self, allowed: Tensor, positions: Tensor, key_positions: Tensor) -> Mask:
        """Additive masks (B, 1, M, N), in the model's dtype, that narrow `allowed` layer by layer.

        Args:
            allowed: (B, M, N) boolean, which columns are a query's ancestors, or itself.
            positions: (B, M) position ids of the queries.
            key_positions: (B, N) position ids of all columns of the cache.
        """
        return masks(self._reaches, allowed, positions, key_positions, self._additive)

    def _additive(self, seen: Tensor) -> Tensor:
        dtype = self.model.dtype
        zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return zeros.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)

    @property
    def sees_everything(self) -> bool:
        """Whether every layer sees all columns of the longest row: there are no windows."""
        return all(reach.within(self.context) == Reach() for reach in self._reaches.values())

    @cached_property
    def _reaches(self) -> Mapping[str, Reach]:
        return reaches(self.model.config.get_text_config())

    def sharing(self, max_row: int) -> tuple[Sharing | None, str]:
        """How rows may share prefixes, or None and the reason why they may not."""
        reason = self._no_tree_masks()
        if reason:
            return None, reason
        config = self.model.config.get_text_config()
        embeddings = self.model.get_input_embeddings().weight.numel()
        trunk = max(1, sum(p.numel() for p in self._base.parameters()) - embeddings)
        pair = 4 * config.hidden_size * config.num_hidden_layers
        return Sharing(_ATTENTION_OVERHEAD * pair / (2 * trunk), max_row), ""

    def _no_tree_masks(self) -> str:
        """Why a tree mask would be wrong for this model, by its signature and config."""
        if isinstance(self.model, OwnModel):
            return "the model is given token ids and nothing else"
        if not self._takes_tree:
            return "the model takes no position ids with an attention mask"
        columns = _column_window(self.model.config.get_text_config())
        if columns is not None:
            return f"layers see the last {columns} tokens of a row, whether on its path or not"
        try:
            reaches(self.model.config.get_text_config())
        except ValueError as error:
            return str(error)
        return ""


def _column_window(config: Any) -> int | None:
    """The shortest attention window that counts columns, if a config gives one."""
    sizes = [getattr(config, name, None) for name in _COLUMN_WINDOWS]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _rope_limit(config: Any) -> int | None:
    """The shortest length at which a config's RoPE changes its frequencies."""
    limits: list[int] = []
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if not isinstance(rope, Mapping):
            continue
        for entry in (rope, *rope.values()):  # some models have one entry per kind of layer
            if not isinstance(entry, Mapping):
                continue
            kind = entry.get("rope_type", entry.get("type"))
            original = entry.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            longest = getattr(config, "max_position_embeddings", None)
            limit = longest if kind == "dynamic" else original or longest
            if kind in ("longrope", "su", "dynamic") and limit:
                limits.append(int(limit))
    return min(limits, default=None)
