"""Drafted tokens: what is drafted, and that answers are the same without drafts."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import skip_self_tests
from test_generate import answers, siblings, turns
from torch.nn.functional import scaled_dot_product_attention

from harness.core import Encoding, Generate, Generated, Request
from harness.engine.attention.side_by_side import SideBySide
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.decoding import drafts
from harness.engine.decoding.cascade_rows import CascadeRows
from harness.engine.decoding.completion import Completion
from harness.engine.decoding.drafts import Drafter, worth
from harness.engine.decoding.rows import Step
from harness.engine.decoding.verify_decoding import DecodingMethods
from harness.engine.engine import Engine
from harness.engine.model.forward import Forward
from harness.engine.queries.query import GenerationQuery


def completion(prompt: str, new: str, limit: int = 100) -> Completion:
    """One whose tokens are letters."""
    query = GenerationQuery(tuple(map(ord, prompt)), limit, (), 1, ())
    return Completion(query, [*map(ord, new)])


@pytest.mark.parametrize(
    ("prompt", "new", "limit", "drafted"),
    [
        ("abcdefgh", "xab", 100, "cdefghxa"),
        ("abcabd", "xab", 100, "dxabdxab"),  # after the last place, and over and over
        ("abc", "xyx", 100, ""),
        ("aab", "aa", 100, "baabaaba"),
        ("a", "b", 100, ""),
        ("a", "aa", 100, "aaaaaaaa"),
        ("abcdefgh", "xab", 7, "cde"),  # and a token after them
        ("abcdefgh", "xab", 4, ""),
    ],
)
def test_drafts_are_what_followed_the_last_two_tokens(
    prompt: str, new: str, limit: int, drafted: str
) -> None:
    assert Drafter(completion(prompt, new, limit)).draft(0) == [*map(ord, drafted)]


def test_drafts_are_as_long_as_they_pay() -> None:
    """Of tokens that are right every other time, the second is needed every fourth time."""
    drafter = Drafter(completion("abcdefgh", "xab"))
    assert [len(drafter.draft(least)) for least in (0.6, 0.5, 0.49, 0.24, 0.12)] == [0, 0, 1, 2, 3]


def test_a_text_that_is_predicted_well_is_drafted_further_ahead() -> None:
    """Rates after k predictions are 1 - 0.5 * 0.9**k where all are right, 0.5 * 0.9**k if none."""
    text = completion("abcdefghijk", "ab")
    drafter = Drafter(text)
    assert len(drafter.draft(0.4)) == 1
    text.tokens += map(ord, "cdefghij")
    assert drafter.draft(0.4) == [*map(ord, "kab")]  # 0.785**3 = 0.48, 0.785**4 = 0.38
    text.tokens += map(ord, "xcx")  # two are wrong: `jk`, and none is predicted after `jx`
    assert drafter.draft(0.4) == []
    text.tokens += map(ord, "ab")
    assert len(drafter.draft(0.4)) == 2  # (0.785 * 0.9)**2 = 0.499, **3 = 0.35


@given(st.integers(1, 300), st.integers(1, 2000))
def test_tokens_must_be_surer_the_more_share_a_step(completions: int, cost: int) -> None:
    least = worth(completions, cost)
    assert 0.2 <= worth(completions, cost + 1) <= least <= worth(completions + 1, cost) < 1.8


@pytest.mark.parametrize(
    ("completions", "cost", "least"), [(24, 16, 1.08), (4, 16, 0.36), (1, 16, 0.2), (64, 1024, 0.2)]
)
def test_what_a_drafted_token_is_worth(completions: int, cost: int, least: float) -> None:
    assert worth(completions, cost) == pytest.approx(least)


@given(st.text("ab", min_size=3, max_size=40), st.data())
def test_a_text_that_is_read_in_pieces_is_drafted_as_in_one(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(2, len(text) - 1))
    growing = completion(text[:1], text[1:cut])
    in_pieces = Drafter(growing)
    in_pieces.draft(0)
    growing.tokens += map(ord, text[cut:])
    assert in_pieces.draft(0.1) == Drafter(completion(text[:1], text[1:])).draft(0.1)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_tokens_side_by_side_attend_as_each_alone(counts: list[int]) -> None:
    torch.manual_seed(0)
    side = SideBySide(counts, torch.device("cpu"))
    branches = [n for n, count in enumerate(counts) for _ in range(count)]
    assert side.branches.tolist() == branches
    query = torch.randn(len(branches), 4, 1, 8)
    keys, values = torch.randn(2, len(counts), 2, 5, 8)
    last = torch.randint(0, 5, (len(branches),))  # column that each token sees
    hidden = torch.zeros(len(branches), 5).masked_fill_(torch.arange(5) > last[:, None], -torch.inf)
    got = side.attend(query, keys, values, hidden[side.tokens], 0.3).output
    keys, values = (x.repeat_interleave(2, 1)[branches] for x in (keys, values))
    want = scaled_dot_product_attention(query, keys, values, hidden[:, None, None], scale=0.3)
    assert (got - want).abs().max() < 1e-5


# --- answers --------------------------------------------------------------------------------


def decoded(
    checkpoint: Checkpoint, requests: list[Request], patch: pytest.MonkeyPatch, longest: int
) -> tuple[list[Generated], list[tuple[int, int]]]:
    """Answers, and how many tokens each step drafted and kept."""
    steps: list[tuple[int, int]] = []
    chosen = Engine(checkpoint)
    skip_self_tests(chosen)
    generator = chosen.backend.generator  # type: ignore[attr-defined]
    generator._methods._sharing, generator._methods._sharing_tested = CascadeRows, True
    choose = generator._choose_tokens

    def counted(rows: CascadeRows, step: Step) -> object:
        before = [len(c.tokens) for c in step.completions]
        found = choose(rows, step)
        kept = sum(len(c.tokens) - n - 1 for c, n in zip(step.completions, before, strict=True))
        steps.append((sum(map(len, step.drafts)), kept))
        return found

    generator._choose_tokens = counted
    with patch.context() as patched:
        patched.setattr(drafts, "LONGEST", longest)
        return answers(chosen, requests), steps


def assert_same(got: list[Generated], want: list[Generated]) -> None:
    for one, two in zip(got, want, strict=True):
        assert (one.text, one.tokens, one.ended) == (two.text, two.tokens, two.ended)
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(
    words=st.lists(st.sampled_from(["the ", "sand ", "sea ", "é", "a"]), min_size=1, max_size=8),
    top_k=st.sampled_from([1, 1, 2]),
    stop=st.sampled_from([(), ("e",), ("sa",)]),
    data=st.data(),
)
def test_drafts_change_no_answer(
    tiny: Checkpoint, words: list[str], top_k: int, stop: tuple[str, ...], data: st.DataObject
) -> None:
    """Drafts from the text itself and random ones; a text of random weights soon repeats itself."""
    start = "".join(words) * 2
    requests: list[Request] = [
        Generate((start, word * k), 25 - 6 * (k % 3), stop=stop, top_k=top_k, seed=(k,))
        for k, word in enumerate(words)
    ]
    seed = data.draw(st.integers(0, 99))
    patch = pytest.MonkeyPatch()
    want, without = decoded(tiny, requests, patch, 0)
    assert not any(drafted for drafted, _ in without)
    got, steps = decoded(tiny, requests, patch, 8)
    assert len(steps) <= len(without)
    assert_same(got, want)
    encoded = Engine(tiny).encode(requests, Encoding())
    prompts = [e.spans[0].inputs for e in encoded]
    tokens = dict(zip(prompts, [answer.tokens for answer in want], strict=True))
    random_numbers = random.Random(seed)

    def guess(self: Drafter, worth: float) -> list[int]:
        """Some right tokens and some random ones, as far as there is room."""
        del worth
        begin, query = len(self._completion.tokens), self._completion.query
        right = tokens[query.prompt][begin : begin + random_numbers.randrange(4)]
        wrong = random_numbers.choices(range(250), k=random_numbers.randrange(4))
        return [*right, *wrong][: query.max_new_tokens - begin - 1]

    with patch.context() as patched:
        patched.setattr(Drafter, "draft", guess)
        got, _ = decoded(tiny, requests, patch, 8)
    assert_same(got, want)


def test_a_text_that_repeats_itself_takes_fewer_steps(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees, paths and prompts alone, in which drafts are kept and refused; one prompt."""
    monkeypatch.setattr(drafts, "_MARGIN", 1.2)  # also drafts that are often wrong
    requests = [*turns(3, new=60), *siblings(3, new=60), *siblings(1, new=60)]
    requests += [Generate((f"{k} the sand",), 60) for k in "xyz"]
    want, without = decoded(tiny, requests, monkeypatch, 0)
    got, steps = decoded(tiny, requests, monkeypatch, 8)
    assert_same(got, want)
    kept = sum(k for _, k in steps)
    assert 0 < kept < sum(drafted for drafted, _ in steps)
    [want, without], [got, steps] = (
        decoded(tiny, requests[-1:], monkeypatch, longest) for longest in (0, 8)
    )
    assert_same(got, want)
    assert len(steps) < len(without) == 60


# --- the self-test --------------------------------------------------------------------------


def test_the_self_test_keeps_and_refuses_drafts(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafted: list[list[list[int]]] = []
    feed = CascadeRows.feed

    def noted(self: CascadeRows) -> Step | None:
        step = feed(self)
        if step is not None:
            drafted.append([[*draft] for draft in step.drafts])
        return step

    monkeypatch.setattr(CascadeRows, "feed", noted)
    assert DecodingMethods(Forward(tiny)).sharing() is CascadeRows
    assert {len(draft) for step in drafted for draft in step} == {0, 1, 2}
    assert len(drafted) > 1


@pytest.mark.parametrize("broken", ["later", "places"])
def test_attention_that_mixes_drafts_up_is_found(
    broken: str, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts that do not see what was drafted before them, or see each other's keys."""
    begin: Callable[..., None] = SideBySide.__init__

    def wrong(self: SideBySide, counts: list[int], device: torch.device) -> None:
        begin(self, counts, device)
        if broken == "later":
            self.tokens = self.tokens[:, -1:].expand(self.tokens.shape)
        else:
            self._places = self._places.flip(0)

    monkeypatch.setattr(SideBySide, "__init__", wrong)
    assert DecodingMethods(Forward(tiny)).sharing() is not CascadeRows
