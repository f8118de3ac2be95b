"""The fixed prompts of the self-test, and texts that tokenizers split in different ways."""

from contextlib import suppress
from random import Random
from typing import NamedTuple

from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import EncodingError

# The second one begins as the first, so that a server may answer it from its prefix cache. The
# third repeats itself, so that a trained model is sure of what comes next. Their lengths differ, so
# that rows of one that are taken for those of another do not fit.
TEXTS = (
    "The harbour was quiet in the morning, and the boats that had come in during the night lay "
    "side by side along the wall while the men mended their nets",
    "The harbour was quiet in the morning, and the boats that had come in during the night were "
    "gone before anybody in the town had seen them",
    "red, green, blue, red, green, blue, red, green, blue, red, green, blue, red, green, blue,",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n",
    "In 1867, 3,512 people lived there; by 1900 it was 48,760.",
)
LENGTHS = (32, 28, 24, 17, 12)  # at most so many tokens, start token included
FEW = 8  # tokens of the shortest prompt that tells anything
REPEATED = 2  # the place of the text that repeats itself

ODD = (
    "a",
    " a",
    "  two  spaces  ",
    "\ttabs\tand\nlines\n\nof\n\n\ntext\n",
    "naïve café, Ångström",
    "nai\u0308ve",  # two code points for one letter
    "“quotes” — and… dashes",
    "don't won't I'LL we've",
    "1234567890 3.14159 1e-10 0x7f",
    "$12.50 + 7 % = ?",
    "CamelCase snake_case kebab-case",
    "http://example.org/a?b=c&d#e",
    "Привет, мир",
    "你好，世界",
    "こんにちは",
    "مرحبا بالعالم",
    "नमस्ते",
    "👩\u200d🚀 🇫🇷",
    "zero\u200bwidth no\u00a0break",
    "x = {'k': [1, 2, (3,)]}  # !@^&*~`|\\",
)


class Prompts(NamedTuple):
    """Token ids of the fixed prompts, and of made-up ones."""

    sequences: tuple[tuple[int, ...], ...]
    pool: tuple[int, ...]  # distinct ids, for made-up prompts
    made_up: bool  # the tokenizer has no tokens for the texts

    def draw(self, count: int, random: Random) -> tuple[int, ...]:
        """A made-up prompt."""
        return tuple(random.choices(self.pool, k=count))


def fixed_prompts(tokenizer: Tokenizer, longest: int | None) -> Prompts:
    """The fixed prompts; of made-up ids if the tokenizer has no tokens for the texts.

    Args:
        tokenizer: of the model.
        longest: tokens of the longest prompt, if the server says.
    """
    start = tokenizer.start_tokens("auto")
    try:
        encoded = [(*start, *ids) for ids in tokenizer.encode(TEXTS)]
    except EncodingError:
        encoded = []
    made_up = not encoded or min(map(len, encoded)) < FEW
    if made_up:
        pool = tuple(i for i in range(len(tokenizer)) if i not in tokenizer.end_tokens)
        draw = Random(0)
        encoded = [tuple(draw.choices(pool, k=length)) for length in LENGTHS]
    else:
        # Tokens of the texts: others, such as those for images, may mean something to the server.
        pool = tuple(sorted({i for ids in encoded for i in ids} - set(start)))
    most = max(FEW, (longest or 2 * max(LENGTHS)) - 1)
    cut = tuple(ids[: min(n, most)] for ids, n in zip(encoded, LENGTHS, strict=True))
    return Prompts(cut, pool, made_up)


def odd_texts(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """The odd texts that the tokenizer has tokens for, with these tokens."""
    encoded: dict[str, tuple[int, ...]] = {}
    for text in ODD:
        with suppress(EncodingError):
            encoded[text] = tuple(tokenizer.encode([text])[0])
    return encoded
