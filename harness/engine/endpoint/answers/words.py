"""Answers to word queries: searches over the most probable tokens that a server shows.

A search asks for the best first tokens, and then for what follows its best candidate until that
is a whole word. A server that shows few tokens answers most queries exactly; those that need one
more are refused.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from harness.core import Tokens
from harness.engine.endpoint.answers.rounds import Rounds
from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Next
from harness.engine.endpoint.served_model import Question, ServedModel
from harness.engine.queries.query import Answer, Query, WordQuery
from harness.engine.scoring.word_search import Path, TokenTexts, WordSearch, first_tokens
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import EndpointError, ResponseError

_TIE = 2  # tokens that show the best one, and whether another is as probable


def word_answers(
    served: ServedModel, tokenizer: Tokenizer, queries: Iterable[WordQuery]
) -> Iterator[dict[Query, Answer]]:
    """The answers of each stretch of calls; the cost goes to `served`.

    Raises:
        ResponseError: the server refused a call, answered it wrongly, or shows too few tokens.
        EndpointError: it shows no most probable tokens, is gone, or has changed.
    """
    texts = TokenTexts(tokenizer)
    items = (_Search(query, served, tokenizer, texts) for query in queries)
    yield from Rounds(served, items).answers()


class _Search:
    """The search for the answer to one query."""

    def __init__(
        self, query: WordQuery, served: ServedModel, tokenizer: Tokenizer, texts: TokenTexts
    ) -> None:
        self.query = query
        self._served, self._tokenizer, self._texts = served, tokenizer, texts
        self._needed = min(first_tokens(query), len(tokenizer))
        self._search: WordSearch | None = None  # once the first tokens are known
        self._path: Path = ()  # what the question in flight is about

    @property
    def seconds(self) -> float:
        """See `Item.seconds`; after the first call, the context is in the server's cache."""
        abilities = self._served.abilities
        new = 0 if self._search else len(self.query.inputs)
        return abilities.seconds_per_call + abilities.seconds_per_token * new

    def question(self) -> Question[Next]:
        """The tokens after the context, or after the best candidate."""
        count = self._needed
        if self._search is not None:
            # Each path costs a call, so that none is read that may turn out to be needless.
            [self._path] = self._search.open_paths(candidates=1)
            count = count if self.query.rule == "every-token" else _TIE
        prompt = (*self.query.inputs, *self._path)
        ask = self._served.dialect.top(prompt, min(count, self._served.abilities.top))
        if ask is None or not self._served.abilities.top:
            raise EndpointError(
                "the server does not show which tokens are the most probable, as the search for a "
                "word needs; expected a completion endpoint such as that of vLLM, SGLang or "
                "llama.cpp"
            )
        return Question(self.query, Ask(replace(ask.call, group=self.query.inputs), ask.read))

    def take(self, value: Next) -> Answer | None:
        """Go on with what came; see `Item.take`."""
        following = list(value.logprobs)
        self._served.tokens += _cost(len(self.query.inputs) + len(self._path), value)
        if self._search is None:
            self._texts.add(following)
            string, apart = self._texts.__getitem__, self._tokenizer.has_lone_spaces
            self._search = WordSearch(self.query, following, string, apart)
        else:
            self._search.extend(self._path, following)
        if self._search.ran_out and self._served.abilities.top < self._needed:
            raise self._too_few()
        result = self._search.result
        return None if result is None else Answer(result, self._search.tokens_fed())

    def _too_few(self) -> ResponseError:
        server = self._served.dialect.server
        advice = ""
        if server.kind == "vllm":
            advice = f": start vLLM with --max-logprobs {self._needed}"
        return ResponseError(
            f"the server shows the {self._served.abilities.top} most probable tokens, none of "
            f"which makes an acceptable word; expected one that shows {self._needed}{advice}"
        )


def _cost(length: int, value: Next) -> Tokens:
    return Tokens(computed=length - (value.cached or 0), scored=1, checked=1, tied=int(value.tie))
