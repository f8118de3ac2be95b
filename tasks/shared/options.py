"""Options that several benchmarks have."""

from harness.task import WHOLE_CONTEXT, Option

STRIDE = Option(
    "stride",
    WHOLE_CONTEXT,
    (WHOLE_CONTEXT, "<n>"),
    "number of tokens that a window advances; context: the context length (disjoint windows)",
)
WINDOWS = Option(
    "windows",
    "plain",
    ("plain", "lm-eval", "hf"),
    "plain; lm-eval fills the last window up to the left; hf omits the first token of each window",
)
BOS = Option(
    "bos",
    "auto",
    ("auto", "eot", "tokenizer", "none"),
    "start token: the tokenizer's own, <|endoftext|>, what the tokenizer adds by default, or none",
)
