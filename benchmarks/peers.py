"""Programs to compare with: lm-eval at its best batch size, and a plain loop.

Both run the weights as transformers loads them, on the same requests.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import common
from benchmarks.common import seconds
from harness.core import Generate, Loglikelihood, Request, RollingLoglikelihood
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.queries.encode import Encoded
from harness.engine.queries.query import Span

SIZES = (1, 8, 16, 32)  # of lm-eval's batches, those that are tried
Run = Callable[[], object]


def lm_eval(
    checkpoint: Checkpoint, asked: Sequence[Request], sizes: Sequence[int] = SIZES
) -> tuple[Run, int]:
    """lm-eval on requests of one kind at the best of some batch sizes, each tried once.

    On all requests: a part of them would fill large batches badly, and choose another size.
    """
    kinds = {
        Loglikelihood: "loglikelihood",
        RollingLoglikelihood: "loglikelihood_rolling",
        Generate: "generate_until",
    }
    instances = common.lm_eval_instances(asked)
    tried: dict[int, tuple[float, Run]] = {}
    for size in sizes:
        method = getattr(common.lm_eval_model(checkpoint, batch_size=size), kinds[type(asked[0])])
        spent = seconds(lambda m=method: m(instances, disable_tqdm=True))  # type: ignore[misc]
        tried[size] = (spent, lambda m=method: m(instances, disable_tqdm=True))  # type: ignore[misc]
    best = min(tried, key=lambda size: tried[size][0])
    return tried[best][1], best


def plain(checkpoint: Checkpoint, asked: Sequence[Request], encoded: Sequence[Encoded]) -> Run:
    """One request after the other through the whole model, with `generate` for texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = locate(checkpoint.identity.name, Settings()).folder
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def run() -> list[object]:
        with torch.no_grad():
            return [
                _written(model, tokenizer, request, tokens.spans[0])
                if isinstance(request, Generate)
                else [_scored(model, span) for span in tokens.spans]
                for request, tokens in zip(asked, encoded, strict=True)
            ]

    return run


def _scored(model: Any, span: Span) -> float:
    """The sum of the log-probabilities of a span's targets."""
    logits = model(torch.tensor([span.inputs])).logits[0]
    logprobs = torch.log_softmax(logits[-len(span.targets) :], dim=-1)
    return float(logprobs.gather(1, torch.tensor([span.targets]).T).sum())


def _written(model: Any, tokenizer: Any, request: Generate, span: Span) -> str:
    """A greedy answer up to its first stop string."""
    ids = torch.tensor([span.inputs])
    stop = {"stop_strings": [*request.stop], "tokenizer": tokenizer} if request.stop else {}
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        pad_token_id=0,
        **stop,
    )
    return str(tokenizer.decode(found[0, ids.shape[1] :]))
