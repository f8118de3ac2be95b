"""Windows, trees and batches as plain integers, against hand-computed lists and lm-eval."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Encoding, Loglikelihood, RollingLoglikelihood
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.queries.encode import Encoder
from harness.engine.queries.prefix_tree import TreeRow, arrange, batches, common_prefix
from harness.engine.queries.query import Sharing, Span
from harness.engine.queries.windows import windows
from harness.errors import EncodingError

FREE = Sharing(pair_cost=0.0, max_row=1 << 20)  # share whatever can be shared


# --- windows ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "context", "stride", "kind", "given", "expected"),
    [
        # start token + 4 in twos: feed [0 1] score 1 2, feed [2 3] score 3 4
        (5, 2, 2, "plain", 1, [(0, 1, 3), (2, 3, 5)]),
        # the last window is short
        (6, 2, 2, "plain", 1, [(0, 1, 3), (2, 3, 5), (4, 5, 6)]),
        # no start token: token 0 is context only
        (5, 4, 4, "plain", 0, [(0, 1, 5)]),
        (6, 4, 4, "plain", 0, [(0, 1, 5), (4, 5, 6)]),
        # stride 1: after the first window, one new token a window
        (6, 3, 1, "plain", 1, [(0, 1, 4), (1, 4, 5), (2, 5, 6)]),
        (8, 4, 2, "plain", 1, [(0, 1, 5), (2, 5, 7), (4, 7, 8)]),
        # lm-eval moves the last window to the left until it is full
        (6, 2, 2, "lm-eval", 1, [(0, 1, 3), (2, 3, 5), (3, 5, 6)]),
        (8, 4, 4, "lm-eval", 1, [(0, 1, 5), (3, 5, 8)]),
        # hf: 4 tokens a window, none of them predicts beyond it
        (8, 4, 4, "hf", 0, [(0, 1, 4), (4, 5, 8)]),
        (9, 4, 4, "hf", 0, [(0, 1, 4), (4, 5, 8)]),  # a last window of one token scores nothing
        (8, 4, 2, "hf", 0, [(0, 1, 4), (2, 4, 6), (4, 6, 8)]),
        # nothing to score
        (1, 4, 4, "plain", 1, []),
        (1, 4, 4, "plain", 0, []),
        (0, 4, 4, "plain", 0, []),
    ],
)
def test_windows_by_hand(
    n: int, context: int, stride: int, kind: str, given: int, expected: list[tuple[int, ...]]
) -> None:
    found = windows(n, context=context, stride=stride, kind=kind, given=given)
    assert [tuple(window) for window in found] == expected


SIZES = st.integers(2, 12).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c)))


@given(n=st.integers(0, 60), sizes=SIZES, kind=st.sampled_from(["plain", "lm-eval"]))
def test_windows_score_every_token_once(n: int, sizes: tuple[int, int], kind: str) -> None:
    context, stride = sizes
    found = windows(1 + n, context=context, stride=stride, kind=kind, given=1)
    assert [k for w in found for k in range(w.first, w.stop)] == list(range(1, n + 1))
    assert all(w.start < w.first < w.stop for w in found)
    assert all(w.stop - 1 - w.start <= context for w in found), "fed at once"


@given(n=st.integers(1, 60), sizes=SIZES)
def test_windows_equal_lm_eval(n: int, sizes: tuple[int, int]) -> None:
    """(tokens fed, tokens scored) of every window, with lm-eval's rolling context for a stride."""
    utils = pytest.importorskip("lm_eval.utils")
    context, stride = sizes
    tokens = list(range(100, 100 + n))
    pairs = map(
        utils.make_disjoint_window,
        utils.get_rolling_token_windows(
            tokens, prefix_token=7, max_seq_len=context, context_len=context - stride + 1
        ),
    )
    expected = [((before + after)[:-1], after) for before, after in pairs]
    whole = [7, *tokens]
    found = windows(len(whole), context=context, stride=stride, kind="lm-eval", given=1)
    assert [(whole[w.start : w.stop - 1], whole[w.first : w.stop]) for w in found] == expected


@given(n=st.integers(1, 60), sizes=SIZES)
def test_windows_equal_the_hugging_face_guide(n: int, sizes: tuple[int, int]) -> None:
    """The loop of huggingface.co/docs/transformers/perplexity; labels are shifted by the model."""
    context, stride = sizes
    expected = []
    previous = 0
    for begin in range(0, n, stride):
        end = min(begin + context, n)
        targets = end - previous
        labelled = range(end - targets, end)
        scored = [k for k in labelled if k > begin]  # the shift drops a window's first label
        if scored:
            expected.append((begin, scored))
        previous = end
        if end == n:
            break
    found = windows(n, context=context, stride=stride, kind="hf", given=0)
    assert [(w.start, list(range(w.first, w.stop))) for w in found] == expected


# --- trees --------------------------------------------------------------------------------


def ancestors(row: TreeRow, node: int) -> list[int]:
    """What a token sees, itself included: j <= i < ends[j]."""
    return [j for j in range(node + 1) if node < row.ends[j]]


def test_the_tree_of_the_docstring() -> None:
    a, b, c, d, e = range(5)
    [row] = arrange([Span((a, b, c), (9,)), Span((a, b, d, e), (8, 7))], FREE)
    assert row.tokens == [a, b, c, d, e]
    assert row.positions == [0, 1, 2, 2, 3]
    assert row.ends == [5, 5, 3, 5, 5]
    assert row.nodes == {0: [2], 1: [3, 4]}
    assert row.branches


def test_a_deeper_tree_by_hand() -> None:
    r"""Spans 1-2-3, 1-2-4-5, 1-2-4-6, 1-7:

          3            tokens     1 2 3 4 5 6 7
         /             positions  0 1 2 2 3 3 1
    1 - 2 - 4 - 5      ends       7 6 3 6 5 6 7
     \       \
      7       6
    """
    spans = [Span((1, 7), ()), Span((1, 2, 4, 6), ()), Span((1, 2, 3), ()), Span((1, 2, 4, 5), ())]
    [row] = arrange([span._replace(targets=(0,)) for span in spans], FREE)
    assert row.tokens == [1, 2, 3, 4, 5, 6, 7]
    assert row.positions == [0, 1, 2, 2, 3, 3, 1]
    assert row.ends == [7, 6, 3, 6, 5, 6, 7]
    assert row.nodes == {2: [2], 3: [4], 1: [5], 0: [6]}


def test_a_path_serves_what_continues_it() -> None:
    spans = [Span((1, 2), (3,)), Span((1, 2, 3), (4,)), Span((1, 2), (9,)), Span((1, 5), (6,))]
    rows = arrange(spans, None)
    assert [row.tokens for row in rows] == [[1, 2, 3], [1, 5]]
    assert not any(row.branches for row in rows)
    assert rows[0].nodes == {0: [1], 2: [1], 1: [2]}


def test_sharing_must_pay() -> None:
    """Two spans of 3 with 2 in common: 2 tokens saved for 4^2 - 3^2 - 3^2 = -2 pairs more."""
    spans = [Span((1, 2, 3), (0,)), Span((1, 2, 4), (0,))]
    assert len(arrange(spans, Sharing(pair_cost=1.0, max_row=4))) == 1
    assert len(arrange(spans, Sharing(pair_cost=1.0, max_row=3))) == 2
    # 1 token in common of 6: 11^2 - 6^2 - 6^2 = 49 pairs more
    apart = [Span((1, *range(10, 15)), (0,)), Span((1, *range(20, 25)), (0,))]
    assert len(arrange(apart, Sharing(pair_cost=1 / 48, max_row=99))) == 2
    assert len(arrange(apart, Sharing(pair_cost=1 / 50, max_row=99))) == 1


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
SPANS = st.lists(
    TOKENS.flatmap(lambda t: st.tuples(st.just(t), st.integers(0, len(t)))), max_size=14
)
SHARINGS = st.sampled_from([None, FREE, Sharing(0.01, 12), Sharing(0.2, 1 << 20)])


@given(drawn=SPANS, sharing=SHARINGS)
def test_every_span_can_be_read_back(
    drawn: list[tuple[tuple[int, ...], int]], sharing: Sharing | None
) -> None:
    # the second number is how many targets; none means that the tokens after it are needed
    spans = list(dict.fromkeys(Span(t, (0,) * count, top=not count) for t, count in drawn))
    rows = arrange(spans, sharing)
    assert sorted(s for row in rows for s in row.nodes) == list(range(len(spans)))
    for row in rows:
        assert len(row.tokens) == len(row.positions) == len(row.ends) == len(row)
        assert row.positions == [len(ancestors(row, i)) - 1 for i in range(len(row))]
        assert row.branches == (row.positions != list(range(len(row))))
        assert sharing is not None or not row.branches
        for s, nodes in row.nodes.items():
            path = ancestors(row, nodes[-1])
            assert tuple(row.tokens[j] for j in path) == spans[s].inputs
            assert nodes == path[-max(len(spans[s].targets), 1) :]
    assert rows == sorted(rows, key=lambda row: (not row.branches, -len(row)))
    if sharing is FREE:  # then a trie: no prefix is computed twice
        prefixes = {s.inputs[:k] for s in spans for k in range(1, len(s.inputs) + 1)}
        assert sum(len(row) for row in rows) == len(prefixes)


@given(TOKENS, TOKENS)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    naive = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    assert common_prefix(a, b) == (min(len(a), len(b)) if naive is None else naive)
    assert common_prefix(a, ()) == common_prefix((), ()) == 0


# --- batches ------------------------------------------------------------------------------


def row(length: int, *, branches: bool = False) -> TreeRow:
    return TreeRow([0] * length, branches=branches)


def lengths(found: Sequence[Sequence[TreeRow]]) -> list[list[int]]:
    return [[len(r) for r in batch] for batch in found]


def test_batches_by_hand() -> None:
    rows = [row(5, branches=True), row(9), row(4), row(4), row(3), row(1)]
    assert lengths(list(batches(rows, 8))) == [[5], [9], [4, 4], [3, 1]]
    assert lengths(list(batches(rows, 27))) == [[5], [9, 4, 4], [3, 1]]
    assert lengths(list(batches(rows, 1))) == [[5], [9], [4], [4], [3], [1]]
    assert list(batches([], 8)) == []


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=30), st.integers(1, 64))
def test_batches_keep_the_budget(sizes: list[tuple[int, bool]], budget: int) -> None:
    rows = [row(length, branches=b) for length, b in sizes]
    found = list(batches(rows, budget))
    assert [r for batch in found for r in batch] == rows
    for batch in found:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= budget
        assert len({r.branches for r in batch}) == 1


# --- encoding -----------------------------------------------------------------------------


def spans_of(tiny: Checkpoint, context: str, continuation: str, *, room: int = 64) -> Span:
    request = Loglikelihood(context, continuation)
    [encoded] = Encoder(tiny.tokenizer, room).encode([request], Encoding())
    [span] = encoded.spans
    return span


def test_spans_by_hand(tiny: Checkpoint) -> None:
    """Byte tokens: every letter is one token, `the` and ` s` are merged."""
    [start] = tiny.tokenizer.start_tokens("auto")
    the, x, y, s = (tiny.tokenizer.encode([t])[0] for t in ("the", "x", "y", " s"))
    assert [len(t) for t in (the, x, y, s)] == [1, 1, 1, 1]
    assert spans_of(tiny, "the", "xy") == Span((start, *the, *x), (*x, *y))
    assert spans_of(tiny, "", "xy") == Span((start, *x), (*x, *y))
    # white space at the end of a context opens the continuation
    assert spans_of(tiny, "the ", "s") == Span((start, *the), tuple(s))
    # five tokens of room for four inputs: the start token stays, the oldest go
    assert spans_of(tiny, "xxyy", "xy", room=4) == Span((start, *y, *y, *x), (*x, *y))


def test_a_continuation_that_cannot_be_scored(tiny: Checkpoint) -> None:
    encoder = Encoder(tiny.tokenizer, 4)
    good = Loglikelihood("a", "b")
    with pytest.raises(EncodingError, match="continuation '' has no token to score") as caught:
        encoder.encode([good, Loglikelihood("a", "")], Encoding())
    assert caught.value.request == 1
    words = "a continuation of 5 tokens does not fit the context of 4"
    with pytest.raises(EncodingError, match=words):
        encoder.encode([Loglikelihood("a", "xyxyx")], Encoding())


PIECES = st.lists(st.text(alphabet="the sand .\né“😀", max_size=12), min_size=1, max_size=8)


@given(pieces=PIECES)
def test_tokens_belong_to_the_piece_of_their_first_character(
    tiny: Checkpoint, pieces: list[str]
) -> None:
    """As text and as bytes; bytes may be cut inside a character."""
    encoder = Encoder(tiny.tokenizer, 64)
    whole = "".join(pieces)
    tokens = len(tiny.tokenizer.encode([whole])[0])
    content = whole.encode()
    cut = [content[i : i + 3] for i in range(0, len(content), 3)] or [b""]
    as_text, as_bytes = encoder.encode(
        [RollingLoglikelihood(tuple(pieces)), RollingLoglikelihood(tuple(cut))], Encoding()
    )
    assert sum(as_text.pieces) == sum(as_bytes.pieces) == tokens
    assert as_text.spans == as_bytes.spans
    assert all(count == 0 for count, p in zip(as_text.pieces, pieces, strict=True) if not p)
    starts = tiny.tokenizer.encode_with_starts(whole)[1]
    edge = 0
    for count, piece in zip(as_text.pieces, pieces, strict=True):
        assert count == sum(edge <= start < edge + len(piece) for start in starts)
        edge += len(piece)


def test_stray_bytes_are_single_tokens(tiny: Checkpoint) -> None:
    """The last byte of `é` opens the text and the first of `“` ends it: none is lost."""
    content = "éab“".encode()[1:-2]
    [encoded] = Encoder(tiny.tokenizer, 64).encode([RollingLoglikelihood((content,))], Encoding())
    [span] = encoded.spans
    assert encoded.pieces == (4,)
    names = tiny.tokenizer._backend.id_to_token
    assert [names(t) for t in span.targets] == ["©", "a", "b", "â"]


def test_straight_is_the_first_path_of_a_row() -> None:
    def straight(*inputs: tuple[int, ...]) -> int:
        always = Sharing(pair_cost=0.0, max_row=100)
        [row] = arrange([Span(i, (9,)) for i in inputs], always)
        return row.straight

    assert straight((1, 2, 3)) == 3
    assert straight((1, 2, 3), (1, 2, 4, 5)) == 3  # 1 2 3 | 4 5
    assert straight((1, 2, 3, 4), (1, 2, 3, 5), (1, 6)) == 4  # 1 2 3 4 | 5 6
