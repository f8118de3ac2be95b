"""Seconds for the work of Table 3, how much of them the device is busy, and what others need.

The busy share is the time of all kernels, by torch's profiler in a run of its own, over the wall
time of a run without it. On a CPU it is the time of torch's operators.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.accelerator import models, work
from benchmarks.accelerator.setting import Row, Rows, Setting, short
from harness.core import Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.engine.engine import Engine

_EVERY = 16  # the plain loop answers one request in so many
_LM_EVAL_BATCH = 64
_BUDGETS = (4096, 16384, 65536)  # padded tokens per batch


def table3_124m(setting: Setting) -> Rows:
    """GPT-2 of 124M: ours, a plain loop and lm-eval, in bfloat16 and float32."""
    divisor = 256 if setting.small else 1
    for dtype in (torch.bfloat16, torch.float32):
        model = setting.gpt2(dtype)
        for done in work.table3(divisor):
            yield _timed(setting, model, done, others=True)


def table3_1500m(setting: Setting) -> Rows:
    """GPT-2 of 1.5B: ours alone, on a quarter of the work in bfloat16, a 16th in float32."""
    for dtype, divisor in ((torch.bfloat16, 4), (torch.float32, 16)):
        model = setting.gpt2(dtype, "1.5B")
        for done in work.table3(256 if setting.small else divisor):
            yield _timed(setting, model, done, others=False)
        del model
        setting.free()


def budgets(setting: Setting) -> Rows:
    """Batches of other sizes than the default."""
    model = setting.gpt2(torch.bfloat16)
    for done in work.table3(256 if setting.small else 4):
        row: Row = {"work": done.name}
        for budget in _BUDGETS:
            engine = Engine(models.checkpoint(model), budget=budget)
            work.run(engine, done)
            row[f"s at {budget:,} tokens"] = setting.seconds(partial(work.run, engine, done))
        yield row


def compiled(setting: Setting) -> Rows:
    """Running text, whose rows have one length, with and without `--compile`."""
    for dtype in (torch.bfloat16, torch.float32):
        model = setting.gpt2(dtype)
        [done] = (w for w in work.table3(256 if setting.small else 4) if w.name == "text")
        row: Row = {"work": done.name, "format": short(dtype)}
        for name, on in (("plain", False), ("compiled", True)):
            again = partial(work.run, Engine(models.checkpoint(model, compiled=on)), done)
            row[f"{name}, first s"] = setting.seconds(again)
            row[f"{name} s"] = setting.seconds(again)
        yield row


def _timed(setting: Setting, model: Any, done: work.Work, *, others: bool) -> Row:
    """One row of the table, all sides in turn."""
    engine = Engine(models.checkpoint(model))
    work.run(engine, done.part(8))  # self-tests, kernels and memory
    before = engine.tokens
    seconds = setting.seconds(lambda: work.run(engine, done))
    spent = engine.tokens - before
    row: Row = {
        "work": f"{done.name} ({len(done.asked)})",
        "format": short(model.dtype),
        "tokens asked": spent.asked,
        "computed": spent.computed,
        "s": seconds,
        "tokens/s": spent.computed / seconds,
        "busy share": _busy_seconds(setting, lambda: work.run(engine, done)) / seconds,
    }
    if others:
        row["plain loop s"] = _plain_seconds(setting, model, engine, done)
        row["lm-eval s"] = _lm_eval_seconds(setting, model, done)
    return row


def _busy_seconds(setting: Setting, action: Callable[[], object]) -> float:
    """Time of all kernels, or of all operators on a CPU."""
    kind = ProfilerActivity.CUDA if setting.on_cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as seen:
        setting.seconds(action)
    name = "self_device_time_total" if setting.on_cuda else "self_cpu_time_total"
    return float(sum(getattr(event, name) for event in seen.key_averages())) / 1e6


def _plain_seconds(setting: Setting, model: Any, engine: Engine, done: work.Work) -> float:
    """One request after the other through the whole model; a part of them, scaled by tokens."""
    asked = [request for request in done.asked if not isinstance(request, NextWord)]
    part = asked[::_EVERY]
    spans = [span for e in engine.encode(part, done.encoding) for span in e.spans]
    everything = [span for e in engine.encode(asked, done.encoding) for span in e.spans]
    if not isinstance(part[0], Generate):
        spans = spans[:: max(1, len(spans) // 64)]  # of running text: some windows
    limits = [r.max_new_tokens if isinstance(r, Generate) else 0 for r in part]
    new = limits if any(limits) else [0] * len(spans)

    def loop() -> None:
        with torch.inference_mode():
            for span, count in zip(spans, new, strict=False):
                ids = torch.tensor([span.inputs], device=model.device)
                if count:
                    found = model.generate(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        max_new_tokens=count,
                        do_sample=False,
                        pad_token_id=0,
                    )
                    found.tolist()
                    continue
                logits = model(ids).logits[0, -len(span.targets) :].float()
                targets = torch.tensor([span.targets], device=model.device).T
                float(logits.log_softmax(-1).gather(1, targets).sum())

    share = sum(len(s.inputs) for s in everything) / max(1, sum(len(s.inputs) for s in spans))
    return setting.seconds(loop) * share


def _lm_eval_seconds(setting: Setting, model: Any, done: work.Work) -> float | str:
    """lm-eval's own Hugging Face back end with the same weights, on the requests that it knows."""
    if find_spec("lm_eval") is None:
        return "not installed"
    from lm_eval.models.huggingface import HFLM

    from benchmarks.common import lm_eval_instances

    kinds: dict[type[Request], str] = {
        Loglikelihood: "loglikelihood",
        RollingLoglikelihood: "loglikelihood_rolling",
        Generate: "generate_until",
    }
    asked = [request for request in done.asked if type(request) in kinds]
    theirs = HFLM(
        pretrained=model,
        tokenizer=models.tokenizer(),
        backend="causal",
        batch_size=_LM_EVAL_BATCH,
        max_length=models.CONTEXT,
    )
    method = getattr(theirs, kinds[type(asked[0])])
    return setting.seconds(lambda: method(lm_eval_instances(asked), disable_tqdm=True))
