"""Tokenizers of every kind: pieces, words, bytes, offsets, and text that a tokenizer loses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import harness, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from harness.analysis.paper.table3 import preflight_warnings
from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.checkpoint import random_model as tiny_module
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Identity
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoded, Encoder
from harness.engine.queries.preflight import preflight
from harness.engine.scoring.word_search import WordSearch
from harness.engine.tokenizer.offsets import token_starts
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError, EncodingError

LETTERS = "abcdefghijklmnopqrstuvwxyzTé"
SIGNS = ".,'\n"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def bpe(tokens: list[str], merges: list[tuple[str, str]], **how: Any) -> Backend:
    entries = dict.fromkeys([*tokens, *map("".join, merges)])
    return Backend(models.BPE({token: i for i, token in enumerate(entries)}, merges, **how))


def marked(**how: Any) -> Backend:
    """`▁` for a space; `▁the` is one token, and `▁` before `v` a token of its own."""
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "s"), ("▁", "a"), ("n", "d")]
    special = ["<unk>", "<s>", "</s>"]
    found = bpe([*special, *BYTES, "▁", *LETTERS, *SIGNS], merges, byte_fallback=True, **how)
    found.add_special_tokens(special)
    return found


def metaspace(scheme: str) -> Backend:
    found = marked()
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    found.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return found


def llama2() -> Backend:
    found = marked(fuse_unk=True)
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    found.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return found


def llama2_legacy() -> Backend:
    found = llama2()
    found.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    found.pre_tokenizer = None  # type: ignore[assignment]
    return found


def gemma() -> Backend:
    found = marked()
    found.normalizer = normalizers.Replace(" ", "▁")
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return found


def unigram() -> Backend:
    pieces = [("<unk>", 0.0), *((c, -6.0) for c in ["▁", *LETTERS, *SIGNS])]
    found = Backend(models.Unigram([*pieces, ("▁the", -2.0), ("▁s", -3.0), ("nd", -3.0)], 0))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    return found


def byte_level() -> Backend:
    return tiny_module.byte_tokenizer().backend_tokenizer  # type: ignore[no-any-return]


def word_piece(cleanup: bool) -> Backend:
    words = ["[UNK]", "the", "s", *LETTERS, *(f"##{c}" for c in [*LETTERS, "nd"]), *".,'"]
    entries = {w: i for i, w in enumerate(dict.fromkeys(words))}
    found = Backend(models.WordPiece(entries, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece(cleanup=cleanup)
    return found


def suffixed() -> Backend:
    """The space is at the end of a word: `sand</w>`."""
    ends = [f"{c}</w>" for c in LETTERS + ".,'"]
    merges = [("t", "h"), ("th", "e</w>"), ("n", "d</w>")]
    found = bpe([*LETTERS, ".", ",", "'", *ends], merges, end_of_word_suffix="</w>")
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.decoder = decoders.BPEDecoder()
    return found


def characters(decoder: Any) -> Backend:
    found = bpe([*BYTES, *LETTERS, *SIGNS, " "], [("n", "d")], byte_fallback=True)
    found.decoder = decoder
    return found


def ctc() -> Backend:
    found = bpe(["<pad>", "|", *LETTERS, *SIGNS], [])
    found.normalizer = normalizers.Replace(" ", "|")
    found.decoder = decoders.CTC()
    return found


def word_level(words: list[str], **how: Any) -> Backend:
    found = Backend(models.WordLevel({w: i for i, w in enumerate(words)}, **how))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return found


WORDS = ["the", "sand", "violin", "né", "a", "vat", "Then"]
KINDS: dict[str, Callable[[], Backend]] = {
    "ByteLevel": byte_level,
    "Metaspace always": lambda: metaspace("always"),
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace never": lambda: metaspace("never"),
    "Unigram": unigram,
    "Sequence of Llama 2": llama2,
    "Sequence of Llama 2, legacy": llama2_legacy,
    "Sequence of Gemma": gemma,
    "WordPiece": lambda: word_piece(cleanup=False),
    "WordPiece with clean-up": lambda: word_piece(cleanup=True),
    "BPEDecoder": suffixed,
    "ByteFallback": lambda: characters(decoders.ByteFallback()),
    "Fuse": lambda: characters(decoders.Fuse()),
    "Fuse, Strip": lambda: characters(
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    ),
    "Fuse, Strip at the end": lambda: characters(
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    ),
    "CTC": ctc,
    "none": lambda: word_level(["[UNK]", *WORDS], unk_token="[UNK]"),
}
WITHOUT_SPACE_TOKENS = ("WordPiece", "WordPiece with clean-up", "BPEDecoder", "none")


def wrapped(backend: Backend) -> Tokenizer:
    hf = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    return Tokenizer(hf, name="made up")


MADE = {name: wrapped(make()) for name, make in KINDS.items()}
kinds = pytest.mark.parametrize("kind", KINDS)


# --- pieces ------------------------------------------------------------------------------------


@kinds
@settings(max_examples=30)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), data=st.data())
def test_pieces_are_the_text(kind: str, words: list[str], data: st.DataObject) -> None:
    tokenizer, text = MADE[kind], " ".join(words)
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text, "chosen such that the tokenizer restores it"
    pieces = tokenizer.token_texts(ids)
    if not any("\ufffd" in piece for piece in pieces):
        assert "".join(pieces).strip(" ") == text
    k = data.draw(st.integers(0, len(ids)))
    before = tokenizer.decode(ids[:k])
    if "\ufffd" not in before and not (kind.endswith("at the end") and pieces[k - 1] == " "):
        assert before + tokenizer.new_text(ids[:k], ids[k:]) == text


@kinds
def test_a_piece_has_its_leading_space(kind: str) -> None:
    tokenizer = MADE[kind]
    [ids] = tokenizer.encode(["a the the"])
    text = "".join(tokenizer.token_texts(ids))
    assert text.strip() == "a the the"
    new = tokenizer.new_text(tokenizer.encode(["a the"])[0], ids[len(ids) // 2 + 1 :])
    assert "the".endswith(new.strip())


@kinds
@pytest.mark.parametrize("word", ["vat", "sand", "the", "né"])
def test_a_search_finds_the_word(kind: str, word: str) -> None:
    """A model that is certain of the next token, and a search for the next word."""
    tokenizer = MADE[kind]
    context, whole = tokenizer.encode(["a", f"a {word} the sand"])
    context = context if whole[: len(context)] == context else []
    coming = whole[len(context) :]
    request = NextWord("", frozenset({"of"}))
    search = WordSearch(
        request, [coming[0]], lambda i: tokenizer.token_texts([i])[0], tokenizer.has_lone_spaces
    )
    while asked := search.open_paths():
        [path] = asked
        search.extend(path, [coming[len(path)]])
    if kind == "ByteLevel" and word == "né":
        return  # broken UTF-8 ends a word
    assert search.result is not None
    assert search.result.text == word


def test_a_space_and_nothing_more_is_not_a_word() -> None:
    tokenizer = MADE["Sequence of Llama 2"]
    space, the, v = (tokenizer._backend.token_to_id(name) for name in ("▁", "▁the", "v"))

    def string(token: int) -> str:
        return tokenizer.token_texts([token])[0]

    search = WordSearch(NextWord("", frozenset()), [space, the], string, space_apart=True)
    assert search.open_paths() == [(space,), (the,)]
    search.extend((space,), [the])
    search.extend((the,), [the])
    assert search.result == Word("the", ())
    assert not WordSearch(NextWord("", frozenset()), [space], string).open_paths()
    search = WordSearch(NextWord("", frozenset()), [space], string, space_apart=True)
    search.extend((space,), [v])
    assert search.open_paths() == [(space, v)]


def decoded_alone(tokenizer: Tokenizer, size: int) -> list[str]:
    return tokenizer._backend.decode_batch([[i] for i in range(size)], False)  # type: ignore[no-any-return]


def test_pieces_of_gpt2_are_its_tokensdecoded_alone(data_dir: Path) -> None:
    folder = data_dir / "gpt2-bpe"
    backend = Backend(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = wrapped(backend)
    found = tokenizer.token_texts(range(50257))
    assert found == decoded_alone(tokenizer, 50257)
    assert not tokenizer.has_lone_spaces
    ends_in_space = [text for text in found if text.strip() and text[-1].isspace()]
    assert not ends_in_space, "so that no word is complete earlier than by the next token"


def test_an_id_beyond_the_vocabulary_adds_nothing() -> None:
    for tokenizer in MADE.values():
        assert tokenizer.token_texts([9999]) == [""]
        assert tokenizer.new_text(tokenizer.encode(["a"])[0], [9999]) == ""


@pytest.mark.parametrize("kind", ["Sequence of Llama 2", "Sequence of Gemma"])
def test_new_text_behind_a_character_of_byte_tokens(kind: str) -> None:
    """`😀` is four byte tokens, and in a full vocabulary so is a line break: one run of bytes."""
    tokenizer = MADE[kind]
    [before] = tokenizer.encode(["a 😀"])
    newline = tokenizer._backend.token_to_id("<0x0A>")
    assert tokenizer.new_text(before, [newline, *tokenizer.encode(["the"])[0]]) in (
        "\nthe",
        "\n the",
    )
    assert tokenizer.new_text(before, [newline]) == "\n"


def test_spaces_at_the_end_of_words_may_complete_any_stop_string() -> None:
    tokenizer = MADE["BPEDecoder"]
    assert tokenizer.tokens_with({" "}, 200).all()
    assert tokenizer.tokens_with({"a"}, 200).sum() == 2  # `a` and `a</w>`


def test_special_tokens_add_no_text() -> None:
    tokenizer = MADE["Sequence of Llama 2"]
    start, end = (tokenizer._backend.token_to_id(name) for name in ("<s>", "</s>"))
    [ids] = tokenizer.encode(["the sand"])
    assert tokenizer.new_text([start], [*ids, end]) == "the sand"
    assert tokenizer.new_text([start, *ids], [*ids, end]) == " the sand"
    assert tokenizer.token_texts([end]) == ["</s>"]


# --- the next word, against a plain loop --------------------------------------------------------


def checkpoint(tokenizer: Tokenizer, *, rows: int | None = None) -> Checkpoint:
    hf = tokenizer._hf
    size = rows or tokenizer.largest_id + 1
    with torch.random.fork_rng(devices=[]):
        made = tiny_module.model(type("Sized", (), {
            "__len__": lambda self: size, "bos_token_id": 1, "eos_token_id": 2,
        })(), context=128)  # fmt: skip
    identity = Identity(
        "made up", None, "random", tokenizer.digest, 1, "float32", "cpu", 128, False, 1
    )
    assert hf is not None
    return Checkpoint(identity, made, tokenizer, torch.device("cpu"), frozenset())


def ask(engine: Engine, requests: list[Request], how: Encoding) -> list[Any]:
    found = dict(engine.answer(requests, engine.encode(requests, how)))
    return [found[i] for i in range(len(requests))]


class Referee:
    """Decodes context and path together with the library, and takes away the context's text."""

    def __init__(self, model: Checkpoint, context: str) -> None:
        self._model, self._backend = model.model, model.tokenizer._backend
        self._ids = self._backend.encode(context, add_special_tokens=False).ids
        self._behind = self._backend.token_to_id("T")  # so that a space at the end is kept

    def text(self, path: list[int]) -> str:
        before, whole, ended = (
            self._backend.decode([*self._ids, *p], False)
            for p in ([], [*path, self._behind], [self._behind])
        )
        return whole.removeprefix(before).removesuffix(ended.removeprefix(before))  # type: ignore[no-any-return]

    def ranked(self, path: list[int]) -> list[int]:
        with torch.no_grad():
            logits = self._model(torch.tensor([[*self._ids, *path]])).logits[0, -1]
        return logits.argsort(descending=True).tolist()  # type: ignore[no-any-return]

    def begins(self, token: int, space_apart: bool) -> bool:
        text = self.text([token])
        word = any(c.isalnum() for c in text) and "\n" not in text
        return word or (space_apart and text == " ")

    def longest(self, path: list[int]) -> str:
        while len(path) < 6:
            longer = [*path, self.ranked(path)[0]]
            if not self.text(longer).removeprefix(self.text(path))[:1].isalnum():
                break
            path = longer
        return self.text(path).strip()


@pytest.mark.parametrize("kind", ["Sequence of Llama 2", "Metaspace first", "WordPiece"])
def test_next_word_equals_a_naive_search(kind: str) -> None:
    model, skip = checkpoint(MADE[kind]), frozenset({"the", "s", "a"})
    contexts = ["the sand", "a vat, the", "Then a vat", "the sand and"]
    answers = ask(Engine(model), [NextWord(c, skip) for c in contexts], Encoding(bos="none"))
    for context, answer in zip(contexts, answers, strict=True):
        plain = Referee(model, context)
        firsts = [t for t in plain.ranked([])[:50] if plain.begins(t, kind != "WordPiece")]
        words = (plain.longest([first]) for first in firsts)
        assert answer.text == next(w for w in words if w and w.lower() not in skip)


# --- bytes -------------------------------------------------------------------------------------


def test_a_byte_is_not_the_character_of_the_same_name() -> None:
    """Byte-level BPE writes byte E9 as `é`, which is a letter in a vocabulary of characters."""
    tokenizer = MADE["Sequence of Llama 2"]
    ids, _ = tokenizer.encode_with_starts("a\udce9")
    assert tokenizer.token_name(ids[-1]) == "<0xE9>"
    for kind in ("WordPiece", "CTC", "none"):
        with pytest.raises(EncodingError, match="0xe9 is not valid UTF-8 and the tokenizer has no"):
            MADE[kind].encode_with_starts("\udce9")


@pytest.mark.parametrize("kind", ["Sequence of Llama 2", "Sequence of Llama 2, legacy"])
def test_no_space_is_put_behind_a_stray_byte(kind: str) -> None:
    tokenizer = MADE[kind]
    ids, starts = tokenizer.encode_with_starts("sand\udcff" + "the \udcfesand")
    names = [tokenizer.token_name(i).replace("▁", " ") for i in ids]
    assert "".join(names).lstrip() == "sand<0xFF>the <0xFE>sand"
    assert starts.tolist() == sorted(starts)
    assert starts[names.index("<0xFE>")] == 9


@pytest.mark.parametrize("kind", ["Sequence of Llama 2", "Sequence of Llama 2, legacy"])
def test_a_continuation_that_is_encoded_apart_gets_no_space(kind: str) -> None:
    tokenizer = MADE[kind]
    [found] = encoded(tokenizer, Loglikelihood("a t", "he"))
    assert found.crossing
    assert "".join(tokenizer.token_texts(found.spans[0].targets)) == "he"
    [found] = encoded(tokenizer, Generate(("the sand " * 9, "nd"), 4, overflow="right"), context=16)
    assert tokenizer.decode(found.spans[0].inputs).endswith("nd")
    assert not tokenizer.decode(found.spans[0].inputs).endswith(" nd")


def encoded(
    tokenizer: Tokenizer, *requests: Request, context: int = 64, rows: int | None = None
) -> list[Encoded]:
    encoder = Encoder(tokenizer, context, vocabulary=rows)
    return encoder.encode(requests, Encoding(bos="none"))


# --- offsets -----------------------------------------------------------------------------------


def trimmed() -> Backend:
    found = byte_level()
    found.post_processor = processors.ByteLevel(trim_offsets=True)
    return found


TRIMMED, PLAIN = wrapped(trimmed()), wrapped(byte_level())
LINES = st.lists(st.text(alphabet="the sé\n ", max_size=9), min_size=1, max_size=5)


@given(lines=LINES)
def test_trimmed_offsets_are_made_whole(lines: list[str]) -> None:
    text = "".join(lines)
    ids, starts = TRIMMED.encode_with_starts(text)
    want, plain = PLAIN.encode_with_starts(text)
    assert ids == want
    assert starts.tolist() == plain.tolist()
    request = RollingLoglikelihood(tuple(lines))
    [found], [wanted] = encoded(TRIMMED, request), encoded(PLAIN, request)
    assert found.pieces == wanted.pieces
    assert len(found.pieces) == len(lines)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_forms_of_other_lengths_keep_tokens_in_their_pieces(form: str) -> None:
    backend = byte_level()
    backend.normalizer = getattr(normalizers, form)()
    pieces = ("ﬁne é ½\n", "the ﬃ e\u0301\n", "sand")
    [found] = encoded(wrapped(backend), RollingLoglikelihood(pieces))
    want = [len(PLAIN.encode([backend.normalizer.normalize_str(p)])[0]) for p in pieces]
    assert list(found.pieces) == [want[0] - 1, *want[1:]], "the first token is context only"
    assert not found.loss.unknown


@given(st.data())
def test_every_character_is_in_one_token(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from("ab "), min_size=1, max_size=12)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=5)) - {len(text)})
    bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    own = [text[a:b] for a, b in bounds]
    spans = [
        (min(a + len(t) - len(t.lstrip()), b), b) for (a, b), t in zip(bounds, own, strict=True)
    ]
    assert token_starts(text, np.array(spans), own.__getitem__).tolist() == [a for a, _ in bounds]


@pytest.mark.parametrize("spans", [[(3, 5), (0, 3)], [(0, 2), (2, 9)], [(2, 1), (2, 5)]])
def test_offsets_that_make_no_sense_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(EncodingError, match=r"stands for the characters \d to \d of a text of 5"):
        token_starts("a b c", np.array(spans), lambda k: "x")


# --- what the model does not have --------------------------------------------------------------


def test_a_token_beyond_the_model_is_refused_where_it_is_fed() -> None:
    tokenizer = MADE["Sequence of Gemma"]
    rows = tokenizer.largest_id  # all but `nd`
    assert tokenizer.token_name(rows) == "nd"
    fine: Request = Loglikelihood("the s", "a")
    for wrong in (
        Loglikelihood("sand", "a"), Loglikelihood("s", "and"), NextWord("sand", frozenset()),
        RollingLoglikelihood(("sand",)), Generate(("sand",), 1),
    ):  # fmt: skip
        with pytest.raises(EncodingError) as caught:
            encoded(tokenizer, fine, wrong, rows=rows)
        assert caught.value.request == 1
        assert str(caught.value) == (
            f"token {rows} ('nd') is beyond the {rows:,} tokens of the model; "
            "tokenizer and weights do not belong together"
        )
    assert encoded(tokenizer, fine, rows=rows) == encoded(tokenizer, fine)


def test_the_engine_knows_the_models_rows() -> None:
    tokenizer = MADE["Sequence of Gemma"]
    engine = Engine(checkpoint(tokenizer, rows=tokenizer.largest_id))
    [answer] = ask(engine, [Loglikelihood("the s", "a")], Encoding(bos="none"))
    assert isinstance(answer, Scored)
    with pytest.raises(EncodingError, match=rf"token {tokenizer.largest_id} \('nd'\) is beyond"):
        engine.encode([Loglikelihood("the s", "and")], Encoding(bos="none"))


def far_away(far: int) -> Backend:
    value = json.loads(word_level(["a", "b"], unk_token="a").to_str())
    value["model"]["vocab"]["b"] = far
    return Backend.from_str(json.dumps(value))  # type: ignore[no-any-return]


@pytest.mark.parametrize("far", [60_000, 2_000_000])
def test_an_id_far_beyond_is_refused_without_memory_for_all_before_it(far: int) -> None:
    tokenizer = wrapped(far_away(far))
    assert tokenizer.encode(["a b"]) == [[0, far]]
    assert len(tokenizer._ids) == 2
    assert encoded(tokenizer, Loglikelihood("a", " a"), rows=2)
    with pytest.raises(EncodingError, match=rf"token {far} \('b'\) is beyond the 2 tokens"):
        encoded(tokenizer, Loglikelihood("a", " b"), rows=2)


def test_the_largest_id_that_a_file_can_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        wrapped(far_away(2**32 - 1))


def test_an_encoding_is_not_drawn() -> None:
    merges = [("a", "b"), ("ab", "a"), ("ab", "ab")]
    tokenizer = wrapped(bpe(["a", "b"], merges, dropout=0.5))
    assert len({tuple(ids) for ids in tokenizer.encode(["abab" * 9] * 20)}) == 1


# --- text that is lost -------------------------------------------------------------------------

LEVEL = wrapped(word_level(["<unk>", "the", "a", "sand"], unk_token="<unk>"))


def test_unknown_words_are_not_scored() -> None:
    good = Loglikelihood("the", " sand")
    with pytest.raises(EncodingError) as caught:
        encoded(LEVEL, good, Loglikelihood("the", " violin"))
    assert caught.value.request == 1
    assert "the tokenizer has no token for 'violin', which is to be scored" in str(caught.value)
    assert f"loses {7 / (8 + 10):.2%} of all characters of 2 requests" in str(caught.value)
    with pytest.raises(EncodingError, match="no token for 'violin'"):
        encoded(LEVEL, RollingLoglikelihood(("the", " violin")))


def test_unknown_words_of_a_context_are_counted() -> None:
    requests = [
        Loglikelihood("the violin", " sand"),
        NextWord("the violin", frozenset()),
        Generate(("a", " sand"), 2),
    ]
    counts = preflight(requests, encoded(LEVEL, *requests)).counts()
    assert counts == {
        "truncated": 0, "crossing": 0, "empty": 0, "duplicates": 0,
        "lossy": 2, "unknown": 2, "lost_characters": 14, "characters": 15 + 10 + 6,
    }  # fmt: skip
    assert preflight_warnings(counts, 3) == [
        "requests with text that the tokenizer loses: 2 of 3 (45.16% of all characters; "
        "2 with unknown tokens)"
    ]


def test_the_unknown_token_written_out_in_the_text_is_a_word() -> None:
    [found] = encoded(LEVEL, Loglikelihood("the <unk>", " <unk>"))
    assert not found.loss.lost
    with pytest.raises(EncodingError, match="no token for 'violin'"):
        encoded(LEVEL, Loglikelihood("the <unk>", " <unk> violin"))


@pytest.mark.parametrize("kind", ["Unigram", "CTC", "WordPiece", "BPEDecoder"])
def test_characters_without_a_token_are_unknown_in_every_model(kind: str) -> None:
    """With a token for what is unknown, or dropped without one."""
    with pytest.raises(EncodingError, match=r"has no token for 'a?語'"):
        encoded(MADE[kind], Loglikelihood("the", " a語"))
    [found] = encoded(MADE[kind], Loglikelihood("語 the", " a"))
    assert found.loss.unknown == 1


def test_a_tokenizer_without_an_unknown_token_refuses_in_one_line() -> None:
    tokenizer = wrapped(word_level(["the", "a"]))
    with pytest.raises(EncodingError, match="cannot encode 'the violin': WordLevel error"):
        encoded(tokenizer, Loglikelihood("the", " violin"))


def changing(normalizer: Any) -> Tokenizer:
    backend = byte_level()
    backend.normalizer = normalizer
    return wrapped(backend)


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        (normalizers.Lowercase(), 3),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), 1),
        (normalizers.Replace(Regex(r"\n"), " "), 1),
        (normalizers.NFKC(), 2),
        (normalizers.NFC(), 0),
    ],
)
def test_what_a_normaliser_changes_is_counted(normalizer: Any, lost: int) -> None:
    text = "The Sand É½\nﬁ"
    tokenizer = changing(normalizer)
    request = Loglikelihood("a", f" {text}")
    [found] = encoded(tokenizer, request)
    assert found.loss.lost == lost
    assert found.loss.unknown == 0
    counts = preflight([request], [found]).counts()
    assert counts.get("lossy", 0) == bool(lost)
    assert counts.get("unknown", 0) == 0


@kinds
@settings(max_examples=30)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
def test_nothing_is_lost_of_text_that_comes_back(kind: str, words: list[str]) -> None:
    for text in (" ".join(words), " " + " ".join(words)):
        [found] = encoded(MADE[kind], NextWord(text, frozenset()))
        assert found.loss.lost == 0


@given(data=st.binary(min_size=1, max_size=40))
def test_bytes_are_not_lost(data: bytes) -> None:
    [found] = encoded(PLAIN, RollingLoglikelihood((data,)), context=256)
    assert found.loss.lost == 0


# --- commands ----------------------------------------------------------------------------------


def saved(folder: Path, backend: Backend) -> Path:
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tiny_module.model(tokenizer, context=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_benchmark_of_unknown_words_has_no_score(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", word_level(["<unk>", "the", "a"], unk_token="<unk>"))
    words = ("--sample", "--no-cache", "--limit", 4, "--out", tmp_path / "out")
    line = refused("lambada", "--model", folder, *words)
    assert "lambada example" in line
    assert "which is to be scored; it loses" in line
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_benchmark_in_another_case_is_marked_and_refused_under_strict(tmp_path: Path) -> None:
    backend = byte_level()
    backend.normalizer = normalizers.Lowercase()
    folder = saved(tmp_path / "model", backend)
    words = ("lambada", "--model", folder, "--sample", "--no-cache", "--limit", 2)
    result = harness(*words, "--out", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    [record] = json.loads(result.out)["records"]
    counts = record["preflight"]
    assert counts["lossy"] == record["requests"] == 4
    assert counts["unknown"] == 0
    assert 0 < counts["lost_characters"] < counts["characters"] / 10
    assert "requests with text that the tokenizer loses: " in result.err
    line = refused(*words, "--out", tmp_path / "strict", "--strict")
    assert "has text that the tokenizer loses (4 in all); refused by --strict" in line
