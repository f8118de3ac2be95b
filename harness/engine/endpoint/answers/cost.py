"""What asking a server costs, in tokens that it computes, and which way of asking costs less.

A call costs as much as some tokens, whatever its prompt. Of a prompt the server computes what its
prefix cache does not have, in blocks, and always the last token. A question of options o after n
tokens costs, with blocks of b tokens:

    prompt log-probabilities   sum over options of n + len(o)       vLLM does not read its cache
    walk                       n + nodes * (n mod b + depth of a node), about

so that a walk wins for few nodes and small blocks. Both are counted here call by call.
"""

from dataclasses import dataclass
from typing import Literal

from harness.engine.endpoint.answers.walk import Group, Node, Path
from harness.engine.endpoint.dialects.dialect import Abilities

Way = Literal["prompt", "walk"]
"""By prompt log-probabilities, or by the tokens after each prompt of a tree."""

# A call of no tokens costs at least this; so little was never seen, so it is a timing gone wrong.
MIN_CALL_TOKENS = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is asked."""

    group: Group
    way: Way
    calls: int
    tokens: int  # that the server computes


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of calls to one server.

    Args:
        abilities: of the server.
        prompt_reads_cache: whether the server reads its cache when it is asked for prompt
            log-probabilities.
    """

    abilities: Abilities
    prompt_reads_cache: bool = False

    @property
    def call_tokens(self) -> float:
        """What a call costs besides its tokens, in tokens."""
        return max(self.abilities.seconds_per_call / self._token_seconds, MIN_CALL_TOKENS)

    @property
    def _token_seconds(self) -> float:
        return max(self.abilities.seconds_per_token, 1e-9)

    def plan(self, group: Group, shared: int) -> Plan:
        """The cheaper way of asking that the server has.

        Args:
            group: the spans of one question.
            shared: first tokens of its root that the server has seen.
        """
        if not self.abilities.prompt_logprobs:
            return self.walk(group, shared)
        by_prompt = self.by_prompt(group, shared)
        calls = max(len(span.targets) for span in group.spans)  # of a walk, at least
        if not self.abilities.named or self.weight(by_prompt) <= calls * (self.call_tokens + 1):
            return by_prompt
        return min(by_prompt, self.walk(group, shared), key=self.weight)

    def weight(self, plan: Plan) -> float:
        """The cost of a plan, in tokens of a prompt whose log-probabilities are asked."""
        # A server that reads its cache up to the first target has no use for the head before it.
        only_read = plan.way == "walk" and not self.prompt_reads_cache
        share = self.abilities.unscored_share if only_read else 1.0
        return plan.tokens * share + plan.calls * self.call_tokens

    def seconds(self, plan: Plan) -> float:
        """The time that a server needs for a plan."""
        return self.weight(plan) * self._token_seconds

    def seconds_of(self, tokens: float, calls: float) -> float:
        """The time that a server needs for so many tokens in so many calls."""
        return (tokens + calls * self.call_tokens) * self._token_seconds

    def by_prompt(self, group: Group, shared: int) -> Plan:
        """The cost of one call a span, whose prompt ends with the last target."""
        tokens = 0
        for span in group.spans:
            length = len(span.inputs) + 1
            seen = min(shared, len(group.root) - 1) if self.prompt_reads_cache else 0
            tokens += length - self._cached(length, seen)
            shared = len(group.root)
        return Plan(group, "prompt", len(group.spans), tokens)

    def walk(self, group: Group, shared: int) -> Plan:
        """The cost of one call a node, or several if it has many children."""
        nodes = group.nodes()
        root = len(group.root)
        visited: set[Path] = set()  # paths at the ends of full blocks
        tokens = calls = 0
        for node in nodes:
            length = root + len(node.path)
            seen = self._seen(node, root, visited) if node.path else shared
            tokens += length - self._cached(length, seen)
            more = -(-len(node.children) // self.width) - 1
            tokens += more * (length - self._cached(length, length))
            calls += 1 + more
        return Plan(group, "walk", calls, tokens)

    @property
    def width(self) -> int:
        """Children that one call of a walk can ask for; top-k calls ask for no token by id."""
        return self.abilities.named or 1 << 30

    def _seen(self, node: Node, root: int, visited: set[Path]) -> int:
        """First tokens of a node's prompt that the server has seen; adds those of its own."""
        block = self.abilities.block
        if block is None:
            return 0
        depth = len(node.path)
        full = (root + depth) // block * block - root  # depth at which its last full block ends
        for end in range(full, 0, -block):
            if node.path[:end] in visited:
                return root + end
            visited.add(node.path[:end])
        return root

    def _cached(self, length: int, seen: int) -> int:
        """Tokens of a prompt that are read from the cache, if its first `seen` were seen."""
        block = self.abilities.block
        return 0 if block is None else min(seen, length - 1) // block * block
