"""Answers to spans: log-probabilities and greedy flags, asked in the cheaper way.

spans --by root--> groups --cost--> plans --> stretches of calls --> values --> answers

Without prompt log-probabilities everything walks, and without tokens named by id a walk reads them
among the most probable ones, where it may not find them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from harness.core import Tokens
from harness.engine.endpoint.answers.cost import Cost, Plan
from harness.engine.endpoint.answers.walk import Group, Node, Path, groups
from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Next, Prompted
from harness.engine.endpoint.served_model import Question, ServedModel, Stretch
from harness.engine.queries.prefix_tree import common_prefix
from harness.engine.queries.query import Advance, Answer, Query, Span, SpanScores
from harness.errors import EndpointError, ResponseError

Value = Prompted | Next


def plans(spans: Sequence[Span], cost: Cost) -> Iterator[Plan]:
    """How each group of distinct spans is asked, in the order of asking."""
    before: tuple[int, ...] = ()
    for group in groups(spans):
        yield cost.plan(group, common_prefix(before, group.root))
        before = group.root


def span_answers(
    served: ServedModel,
    cost: Cost,
    spans: Sequence[Span],
    known: Collection[Query],
    advance: Advance,
) -> Iterator[dict[Query, Answer]]:
    """The answers of each stretch, as `Backend.answer` describes; the cost goes to `served`.

    Ways of asking are chosen from all spans, so that a resumed run asks as an uninterrupted one.
    """
    planned = list(plans(spans, cost))
    total = sum(round(cost.weight(plan)) for plan in planned)
    left = [plan for plan in planned if not all(span in known for span in plan.group.spans)]
    done = total - sum(round(cost.weight(plan)) for plan in left)
    missing: list[Span] = []
    answered = 0
    asker = _Asker(served, cost, known)
    for asked, values in served.values(asker.stretches(left, missing), named=True):
        found, left_values = _Found(), iter(values)
        for part in asked:
            found.add(part, [*islice(left_values, part.count)])
            done += round(cost.weight(part.plan))
        served.tokens += found.tokens
        missing += found.missing
        answered += len(found.answers)
        advance(done, total)
        if found.answers:
            yield found.answers
    if missing:
        raise _not_shown(missing, answered, served.abilities.top)


def _not_shown(missing: Sequence[Span], answered: int, top: int) -> ResponseError:
    return ResponseError(
        f"the server shows only the {top} most probable tokens, and {len(missing)} of "
        f"{len(missing) + answered} items asked have a token beyond them; expected a server that "
        "returns prompt log-probabilities or those of tokens named by id, such as vLLM",
        query=missing[0],
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A plan, and how many values of its stretch belong to it."""

    plan: Plan
    nodes: Sequence[Node]  # one per value of a walk; several have the same path if one has many ids
    count: int


@dataclass(frozen=True, slots=True)
class _Asker:
    """Turns plans into stretches of questions."""

    served: ServedModel
    cost: Cost
    known: Collection[Query]

    def stretches(
        self, planned: Sequence[Plan], missing: Sequence[Span]
    ) -> Iterator[Stretch[list[_Asked], Value]]:
        """Stretches of questions, until a target is `missing` among the tokens that are shown."""
        subject: list[_Asked] = []
        questions: list[Question[Value]] = []
        seconds = 0.0
        for number, plan in enumerate(planned):
            needed = tuple(span for span in plan.group.spans if span not in self.known)
            left = replace(plan, group=Group(plan.group.root, needed))
            nodes = self._nodes(left.group) if plan.way == "walk" else []
            new = self._questions(left, nodes, number)
            subject.append(_Asked(left, nodes, len(new)))
            questions += new
            seconds += self.cost.seconds(plan)
            if self.served.enough(len(questions), seconds):
                yield Stretch(subject, questions)
                subject, questions, seconds = [], [], 0.0
                if missing:
                    return
        if questions:
            yield Stretch(subject, questions)

    def _nodes(self, group: Group) -> list[Node]:
        """The nodes of a group, those with more children than a call can ask for several times."""
        width = self.cost.width
        return [
            Node(node.path, node.children[begin : begin + width])
            for node in group.nodes()
            for begin in range(0, len(node.children), width)
        ]

    def _questions(self, plan: Plan, nodes: Sequence[Node], number: int) -> list[Question[Value]]:
        group, questions = plan.group, []
        if plan.way == "prompt":
            opens = self.cost.prompt_reads_cache and len(group.spans) > 1
            for span in group.spans:
                whole = (*span.inputs, span.targets[-1])
                ask = self.served.dialect.prompted(whole, len(group.root))
                questions.append(_question(span, ask, number, opens))
                opens = False
            return questions
        owners = group.owners()
        for node in nodes:
            opens = not node.path and len(nodes) > 1
            questions.append(_question(owners[node.path], self._next(group, node), number, opens))
        return questions

    def _next(self, group: Group, node: Node) -> Ask[Next] | None:
        prompt = (*group.root, *node.path)
        dialect, abilities = self.served.dialect, self.served.abilities
        if abilities.named:
            return dialect.named(prompt, node.children)
        return dialect.top(prompt, abilities.top) if abilities.top else None


def _question(
    span: Span, ask: Ask[Prompted] | Ask[Next] | None, number: int, opens: bool = False
) -> Question[Value]:
    if ask is None:
        raise EndpointError(
            "the server shows no log-probabilities of given tokens, expected a completion endpoint "
            "of vLLM, SGLang or llama.cpp, or one that supports `echo` with `logprobs`"
        )
    call = replace(ask.call, group=number)
    return Question(span, Ask[Value](call, ask.read), opens)


class _Found:
    """The answers of a stretch, and what they cost."""

    def __init__(self) -> None:
        self.answers: dict[Query, Answer] = {}
        self.missing: list[Span] = []  # a target is not among the tokens that the server shows
        self.tokens = Tokens()

    def add(self, asked: _Asked, values: Sequence[Value]) -> None:
        """Add the answers of one plan."""
        group = asked.plan.group
        if asked.plan.way == "prompt":
            for span, value in zip(group.spans, values, strict=True):
                assert isinstance(value, Prompted)
                self._add_prompted(span, value)
            return
        by_path: dict[Path, Next] = {}
        for node, value in zip(asked.nodes, values, strict=True):
            assert isinstance(value, Next)
            self._count_next(len(group.root) + len(node.path), value)
            before = by_path.get(node.path)
            by_path[node.path] = _joined(before, value) if before else value
        for span in group.spans:
            self._add_walked(span, by_path)

    def _add_prompted(self, span: Span, value: Prompted) -> None:
        count = len(span.targets)
        self.tokens += Tokens(
            computed=len(span.inputs) + 1 - (value.cached or 0),
            scored=count,
            checked=count,
            tied=value.ties,
        )
        self._add(span, SpanScores(value.logprobs, value.greedy))

    def _count_next(self, length: int, value: Next) -> None:
        self.tokens += Tokens(
            computed=length - (value.cached or 0),
            scored=1,
            checked=1,
            tied=int(value.tie),
        )

    def _add_walked(self, span: Span, by_path: dict[Path, Next]) -> None:
        steps = [(by_path[span.targets[:k]], target) for k, target in enumerate(span.targets)]
        if any(target not in step.logprobs for step, target in steps):
            self.missing.append(span)
            return
        logprobs = [step.logprobs[target] for step, target in steps]
        greedy = [step.best == target for step, target in steps]
        self._add(span, SpanScores(np.array(logprobs, np.float32), np.array(greedy, np.bool_)))

    def _add(self, span: Span, scores: SpanScores) -> None:
        shapes = scores.logprobs.shape, scores.greedy.shape
        assert shapes == ((len(span.targets),),) * 2, f"{shapes} for {len(span.targets)} targets"
        self.answers[span] = Answer(scores, len(span.inputs))


def _joined(one: Next, other: Next) -> Next:
    """Two values of a node with more children than a call can ask for."""
    # The server's choice may tie with a child of either call, and the lowest id wins.
    best = min(one.best, other.best)
    return other._replace(logprobs={**one.logprobs, **other.logprobs}, best=best)
