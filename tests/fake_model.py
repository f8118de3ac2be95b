"""What a fake server computes with: a network's log-probabilities, and a counted prefix cache."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = Callable[[Sequence[int]], NDArray[np.float32]]
"""Ids -> (len(ids), V): after each of them, the log-probabilities of the next token."""

KEPT = 64  # prompts whose rows are kept, so that a walk computes each prefix once
PAGE = 16  # tokens of a block of the prefix cache


class Sampling(NamedTuple):
    """How tokens are generated."""

    most: int  # tokens
    temperature: float = 0.0
    top_k: int = 0  # 0: of the whole vocabulary
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_end: bool = False


class Text(NamedTuple):
    """Generated tokens, with the rows of log-probabilities that they were chosen from."""

    ids: list[int]
    rows: NDArray[np.float32]  # (len(ids), V)
    text: str  # without the stop string, its token included in `ids`
    reason: str  # "stop" or "length"
    stopped: str | int | None = None  # the stop string or stop token; None: an end of text


class Letters:
    """A tokenizer of one token per character, for a model without one."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 1000 for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(32 + i % 90) for i in ids)


class Pieces:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class Model:
    """A network and its tokenizer, with a prefix cache that only counts.

    Args:
        network: log-probabilities after each token.
        tokenizer: `encode` and `decode`.
        source: the folder that it was loaded from.
        context: tokens that it takes at once.
        ends: tokens that end a text.
        page: tokens of a block of the prefix cache.
    """

    def __init__(
        self,
        network: Rows,
        tokenizer: Letters | Pieces,
        *,
        source: str = "./model",
        context: int,
        ends: frozenset[int] = frozenset(),
        page: int = PAGE,
    ) -> None:
        self._network, self.tokenizer, self.source = network, tokenizer, source
        self.context, self.ends, self._page = context, ends, page
        self.vocabulary = network([0]).shape[1]
        self._rows: OrderedDict[tuple[int, ...], NDArray[np.float32]] = OrderedDict()
        self._blocks: set[tuple[int, ...]] = set()
        self._pieces: dict[int, str] = {}
        self.lock = threading.RLock()  # held while a call is answered

    def piece(self, token: int) -> str:
        """The text of one token."""
        if token not in self._pieces:
            self._pieces[token] = self.tokenizer.decode([token])
        return self._pieces[token]

    def rows(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """(len(prompt), V): after each token, the log-probabilities of the next one."""
        key = tuple(prompt)
        if key not in self._rows:
            self._rows[key] = self._network(key)
            if len(self._rows) > KEPT:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]

    def cached(self, prompt: Sequence[int]) -> int:
        """Tokens of the prompt in the cache: whole blocks, and never the last token."""
        count = 0
        while count + self._page < len(prompt) and tuple(prompt[: count + self._page]) in (
            self._blocks
        ):
            count += self._page
        return count

    def keep(self, prompt: Sequence[int]) -> None:
        """Write the whole blocks of a prompt to the cache."""
        for end in range(self._page, len(prompt) + 1, self._page):
            self._blocks.add(tuple(prompt[:end]))

    def forget(self) -> None:
        """Empty the prefix cache, as a restart does."""
        self._blocks.clear()

    def write(self, prompt: Sequence[int], how: Sampling) -> Text:
        """Generate after a prompt, as vLLM does: the token that ends the text is among `ids`."""
        ids: list[int] = []
        rows: list[NDArray[np.float32]] = []
        random = np.random.default_rng(how.seed)
        while True:
            row = self.rows([*prompt, *ids])[-1]
            rows.append(row)
            ids.append(_chosen(row, how, random))
            end = self._end(ids, how)
            if end is not None:
                return Text(ids, np.array(rows), *end)

    def _end(self, ids: list[int], how: Sampling) -> tuple[str, str, str | int | None] | None:
        """Text, reason and what stopped it, if these tokens are all."""
        text = self.tokenizer.decode(ids)
        if ids[-1] in how.stop_ids:
            return self.tokenizer.decode(ids[:-1]), "stop", ids[-1]
        if ids[-1] in self.ends and not how.ignore_end:
            return self.tokenizer.decode(ids[:-1]), "stop", None
        found = [(text.find(stop), stop) for stop in how.stop if stop in text]
        if found:
            place, stop = min(found)
            return text[:place], "stop", stop
        return (text, "length", None) if len(ids) >= how.most else None


def _chosen(row: NDArray[np.float32], how: Sampling, random: np.random.Generator) -> int:
    if how.temperature == 0 or how.top_k == 1:
        return int(row.argmax())
    order = np.argsort(-row, kind="stable")[: how.top_k or None]
    weights = np.exp(row[order].astype(np.float64) / how.temperature)
    return int(random.choice(order, p=weights / weights.sum()))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    best = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - best).sum(axis=-1, keepdims=True)) + best
    return np.asarray(logits - total, dtype=np.float32)


def constant(vocabulary: int = 49152, context: int = 1024, **changes: Any) -> Model:
    """A model with one answer to everything, which costs no time."""
    row = _log_softmax(np.random.default_rng(0).normal(0, 3, vocabulary).astype(np.float32))

    def rows(ids: Sequence[int]) -> NDArray[np.float32]:
        return np.broadcast_to(row, (len(ids), vocabulary))

    return Model(rows, changes.pop("tokenizer", Letters()), context=context, **changes)


def torch_model(network: Any, tokenizer: Any, **changes: Any) -> Model:
    """A causal model of transformers."""
    import torch

    config = network.config
    positions = getattr(config, "n_positions", None) or config.max_position_embeddings
    ends = {config.eos_token_id, tokenizer.eos_token_id} - {None}
    changes = {"context": int(positions), "ends": frozenset(ends)} | changes

    ids, rows, cache = (), np.zeros((0, 0), np.float32), None  # of the last call

    def extended(asked: Sequence[int]) -> NDArray[np.float32]:
        """Rows of a prompt; of one that goes on after the last one, only the new tokens run."""
        nonlocal ids, rows, cache
        if not ids or ids != tuple(asked[: len(ids)]) or len(asked) == len(ids):
            ids, rows, cache = (), np.zeros((0, 0), np.float32), None
        fed = torch.tensor([list(asked[len(ids) :])])
        with torch.inference_mode():
            out = network(fed, past_key_values=cache, use_cache=True)
        new = _log_softmax(np.asarray(out.logits[0].float().numpy()))
        rows = np.concatenate([rows, new]) if ids else new
        ids, cache = tuple(asked), out.past_key_values
        return rows

    return Model(extended, Pieces(tokenizer), **changes)


def from_folder(folder: Path, **changes: Any) -> Model:
    """A checkpoint folder of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return torch_model(network, tokenizer, source=str(folder), **changes)
