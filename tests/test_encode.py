"""Text and bytes become exactly the tokens that the protocol says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import Encoding, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.queries.encode import WORD_TOKENS, Encoded, Encoder
from harness.engine.queries.preflight import preflight
from harness.errors import EncodingError


def encode(tiny: Checkpoint, request: Request, *, context: int = 64, **how: object) -> Encoded:
    [found] = Encoder(tiny.tokenizer, context).encode([request], Encoding(**how))  # type: ignore[arg-type]
    return found


def test_special_text_is_ordinary_text(tiny: Checkpoint) -> None:
    [ids] = tiny.tokenizer.encode(["<|endoftext|>"])
    assert len(ids) == len("<|endoftext|>")
    assert tiny.tokenizer.start_tokens("eot")[0] not in ids


def test_start_token_options(tiny: Checkpoint) -> None:
    [eot] = tiny.tokenizer.start_tokens("eot")
    assert tiny.tokenizer.start_tokens("auto") == (eot,)
    assert tiny.tokenizer.start_tokens("none") == ()
    assert tiny.tokenizer.start_tokens("tokenizer") == ()
    for bos, count in (("auto", 1), ("eot", 1), ("none", 0), ("tokenizer", 0)):
        [span] = encode(tiny, Loglikelihood("the sand", " end"), bos=bos).spans
        assert span.inputs.count(eot) == count


def test_target_follows_the_bar(tiny: Checkpoint) -> None:
    tok = tiny.tokenizer
    [span] = encode(tiny, Loglikelihood("the sand", " end")).spans
    assert span.targets == tuple(tok.encode([" end"])[0])
    assert (*span.inputs, span.targets[-1]) == (
        *tok.start_tokens("auto"),
        *tok.encode(["the sand end"])[0],
    )


def test_white_space_that_ends_a_context_opens_the_continuation(tiny: Checkpoint) -> None:
    moved = encode(tiny, Loglikelihood("the sand \n", "end"))
    assert moved == encode(tiny, Loglikelihood("the sand", " \nend"))


def test_a_token_across_the_boundary_is_counted_and_encoded_apart(tiny: Checkpoint) -> None:
    request = Loglikelihood("a t", "he")  # "the" is one token of the whole
    found = encode(tiny, request)
    assert found.crossing
    assert found.spans[0].targets == tuple(tiny.tokenizer.encode(["he"])[0])
    assert preflight([request, request], [found, found]).counts() == {
        "truncated": 0,
        "crossing": 2,
        "empty": 0,
        "duplicates": 1,
    }


def test_empty_context_leaves_the_start_token(tiny: Checkpoint) -> None:
    ids = tuple(tiny.tokenizer.encode(["and"])[0])
    [span] = encode(tiny, Loglikelihood("", "and"), bos="tokenizer").spans
    assert (span.inputs, span.targets) == ((*tiny.tokenizer.start_tokens("auto"), *ids[:-1]), ids)
    [span] = encode(tiny, Loglikelihood("", "and"), bos="none").spans
    assert (span.inputs, span.targets) == (ids[:-1], ids[1:])


def test_truncation_drops_the_oldest_tokens_and_keeps_the_start(tiny: Checkpoint) -> None:
    request = Loglikelihood("x" * 200 + "yz", " end")
    found = encode(tiny, request, context=16)
    assert found.truncated
    [span] = found.spans
    assert len(span.inputs) == 16
    assert span.inputs[:1] == tiny.tokenizer.start_tokens("auto")
    assert tiny.tokenizer.decode([*span.inputs[1:], span.targets[-1]]).endswith("yz end")
    found = encode(tiny, NextWord("x" * 200, frozenset()), context=16)
    assert found.truncated
    assert len(found.spans[0].inputs) == 16 - WORD_TOKENS


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Loglikelihood("the", ""), "no token to score"),
        (Loglikelihood("the", " x" * 40), "80 tokens does not fit the context of 16"),
        (NextWord("", frozenset()), "needs a context or a start token"),
    ],
)
def test_impossible_requests_name_themselves(
    tiny: Checkpoint, request_: Request, message: str
) -> None:
    good = Loglikelihood("the", " end")
    with pytest.raises(EncodingError, match=message) as caught:
        Encoder(tiny.tokenizer, 16).encode([good, request_], Encoding(bos="none"))
    assert caught.value.request == 1


@settings(max_examples=60)
@given(data=st.binary(min_size=1, max_size=80), cut=st.integers(0, 80))
def test_no_byte_is_lost(tiny: Checkpoint, data: bytes, cut: int) -> None:
    """Any bytes, cut anywhere, come back from the scored tokens; pieces account for all."""
    pieces = (data[:cut], data[cut:]) if 0 < cut < len(data) else (data,)
    found = encode(tiny, RollingLoglikelihood(pieces), context=256)
    [span] = found.spans
    assert sum(found.pieces) == len(span.targets)
    assert _bytes(tiny, span.targets) == data


def test_bytes_cut_inside_a_character(tiny: Checkpoint) -> None:
    """A split that begins and ends inside an `é` (C3 A9): two single-byte tokens."""
    data = "éandé".encode()[1:-1]
    found = encode(tiny, RollingLoglikelihood((data[:2], data[2:])))
    [span] = found.spans
    assert _bytes(tiny, span.targets) == data
    assert found.pieces == (2, 2)  # A9, an | d, C3: `an` is one token


def _bytes(tiny: Checkpoint, ids: tuple[int, ...]) -> bytes:
    """The bytes of byte-level tokens, by the alphabet of the tokenizer library."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(others)}
    names = tiny.tokenizer._hf.convert_ids_to_tokens(list(ids))
    return bytes(byte_of[c] for name in names for c in name)


def test_pieces_hold_the_tokens_that_begin_in_them(tiny: Checkpoint) -> None:
    found = encode(tiny, RollingLoglikelihood(("x t", "he", "", " sand")))
    # tokens: x | space-t.. merges over the pieces: " the" begins in the first one
    assert found.pieces == (2, 0, 0, len(tiny.tokenizer.encode([" sand"])[0]))
