"""A callback for the Trainer of transformers: the scores of the model while it is trained.

Only process 0 evaluates; the others wait for it in the next operation that needs all processes.
The scores reach TensorBoard, W&B and others through the Trainer's own callbacks for them. The
Trainer's log of the loss is left as it is: its average would start anew with every log.
"""

import builtins
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from transformers.trainer_callback import CallbackHandler, ExportableState, TrainerCallback

from harness.analysis.baseline import Baseline, rules_for
from harness.analysis.check import check
from harness.analysis.rules.rule import Policy, parse_rule
from harness.analysis.runs import Run
from harness.errors import HarnessError, UsageError, in_one_line
from harness.records.outcomes import NO_OUTCOMES
from harness.records.record import Record
from harness.training.evaluator import Evaluator

log = logging.getLogger(__name__)

PREFIX = "eval_harness"  # the Trainer shows what begins with `eval_` as `eval/...`
ON_REGRESSION = ("ignore", "warn", "stop")


@dataclass(eq=False)
class HarnessCallback(Evaluator, TrainerCallback, ExportableState):
    """Evaluates the model every so many steps, or whenever it is saved.

        callback = HarnessCallback(["lambada"], data_dir="data", every=1000, budget="30s")
        Trainer(..., processing_class=tokenizer, callbacks=[callback])

    The options of `Evaluator` are options here as well. Scores are logged as
    `eval_harness/TASK/METRIC`. If an evaluation fails, an error is logged and training goes on.

    Raises:
        HarnessError: an option is wrong, or there is no data, as of `Evaluator`.
    """

    _: KW_ONLY
    every: int | Literal["save"] = 1000
    """Steps between evaluations, besides one after the last step; `save`: at each checkpoint."""
    on_regression: Literal["ignore", "warn", "stop"] = "warn"
    """What happens when a score is worse than at the evaluation before: a warning is logged, or
    training stops as well."""
    rule: str = "paired"
    """When a score is worse, as `--rule` of `harness baseline`: `paired`, `relative:0.05`, ..."""
    alpha: float = 0.01
    """Probability of a false alarm at an evaluation, under the rule `paired`."""

    def __post_init__(self) -> None:
        if self.every != "save" and not (isinstance(self.every, int) and self.every >= 1):
            raise UsageError(f"every={self.every!r}: expected a number of steps, or 'save'")
        if self.on_regression not in ON_REGRESSION:
            known = ", ".join(ON_REGRESSION)
            raise UsageError(f"on_regression={self.on_regression!r}: expected one of {known}")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha={self.alpha}: expected a level between 0 and 1")
        self._rule = parse_rule(self.rule)
        self._handler: CallbackHandler | None = None
        self._evaluated: int | None = None  # the last step at which an evaluation was due
        self._before: list[Record] = []  # of the evaluation before
        self._incomparable: builtins.set[str] = set()  # what was said about it
        self._processing_class: Any = None  # of the Trainer
        super().__post_init__()

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer of the options, or that of the Trainer."""
        return self._processing_class if self.tokenizer is None else super()._tokenizer

    def attach(self, trainer: Any) -> None:
        """Log through this Trainer; needed only where it is not found by itself."""
        self._handler = trainer.callback_handler

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the Trainer holds: the options, and the rows that were chosen."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        for name, value in values.items():
            values[name] = str(value) if isinstance(value, Path) else value
        if not isinstance(values["tokenizer"], str):  # an object; the Trainer's is used instead
            values["tokenizer"] = None
        values["tasks"] = self.tasks if isinstance(self.tasks, str) else list(self.tasks)
        values["set"] = dict(self.set)
        return {"args": values, "attributes": {"rows": self.rows}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the evaluations, so that an error is raised now and not after hours.

        Raises:
            UsageError: there is no tokenizer, or no checkpoint that is waited for will be saved.
            HarnessError: the model cannot be evaluated, as of `Evaluator.prepare`.
        """
        if self.every == "save" and args.save_strategy == "no":
            raise UsageError("every='save' with save_strategy='no': no checkpoint will be saved")
        self._resume(state)
        self._evaluated, self._before = None, []
        self._processing_class = kwargs.get("processing_class")
        if self._tokenizer is None:
            raise UsageError(
                "no tokenizer: give the Trainer processing_class=..., or the callback tokenizer=..."
            )
        if state.is_world_process_zero:
            self.prepare(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate after every so many steps, and after the last one."""
        last = control.should_training_stop
        if self.every != "save" and (last or state.global_step % self.every == 0):
            return self._evaluate(args, state, control, kwargs["model"])
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate when another callback has ended the training after a step."""
        if self.every != "save" and control.should_training_stop:
            return self._evaluate(args, state, control, kwargs["model"])
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate what was saved."""
        if self.every == "save":
            return self._evaluate(args, state, control, kwargs["model"])
        return control

    def _evaluate(self, args: Any, state: Any, control: Any, model: Any) -> Any:
        """Evaluate, log and compare at this step, unless it was done; return the control."""
        if self._evaluated == state.global_step:
            return control
        self._evaluated = state.global_step
        worse = False
        if state.is_world_process_zero:
            records: list[Record] = []
            with _logging_errors(state.global_step):
                name = args.run_name or Path(args.output_dir).name
                for record in self.records(model, name=name, step=state.global_step):
                    records.append(record)
            control = self._log_scores(records, args, state, control)
            with _logging_errors(state.global_step):
                worse = self._has_regressed(records, state.global_step)
            self._before = records or self._before
        if self.on_regression == "stop" and _in_process_0(worse, args):
            control.should_training_stop = True
        return control

    def _log_scores(self, records: Sequence[Record], args: Any, state: Any, control: Any) -> Any:
        """Log scores as `Trainer.log` does; return the control."""
        logs = {
            f"{PREFIX}/{record.task}/{score.metric}": score.value
            for record in records
            for score in record.scores
            if score.baseline is None
        }
        if not logs:
            return control
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        state.log_history.append({**logs, "step": state.global_step})
        handler = self._handler or _calling_handler()
        if handler is None:
            log.warning("the Trainer was not found, so that its loggers get no scores; attach() it")
            return control
        # Not `on_log`, which would take the log of the loss at this step for done.
        return handler.call_event(  # type: ignore[no-untyped-call]
            "on_log", args, state, control, logs=logs
        )

    def _has_regressed(self, records: Sequence[Record], step: int) -> bool:
        """Whether a score is worse than before; says which."""
        if self.on_regression == "ignore" or not self._before:
            return False
        before = self._before[0].model["step"]
        runs = _runs(self._before)
        baseline = Baseline(runs, rules_for(runs, Policy(self._rule)), self.alpha)
        worse = False
        for verdict in check(_runs(records), baseline, {}):
            what = f"{verdict.task} {verdict.metric}"
            if verdict.status == "regression":
                end = "; training stops" if self.on_regression == "stop" else ""
                line = f"{what} is worse than at step {before}: {verdict.reason}{end}"
                log.warning("step %d: %s", step, line)
                worse = True
            elif verdict.status == "not comparable" and what not in self._incomparable:
                self._incomparable.add(what)
                log.warning("step %d: %s is not compared: %s", step, what, verdict.reason)
        return worse

    def _resume(self, state: Any) -> None:
        """Take the rows that a run with the same options has chosen before its checkpoint."""
        own, name = self.state(), type(self).__name__
        # A checkpoint of a run without this callback has no entry, which saving would miss.
        saved = state.stateful_callbacks.setdefault(name, own)
        for entry in saved if isinstance(saved, list) else [saved]:
            if entry["args"] == own["args"] and entry["attributes"]["rows"]:
                self.rows = entry["attributes"]["rows"]


def _runs(records: Sequence[Record]) -> tuple[Run, ...]:
    """Records in memory, with their outcomes, as `check` compares them."""
    return tuple(
        Run(record, record.outcomes or NO_OUTCOMES, f"step {record.model.get('step')}")
        for record in records
    )


@contextmanager
def _logging_errors(step: int) -> Iterator[None]:
    """Log an error in one line; no evaluation is worth a training run of days."""
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, HarnessError) else in_one_line(error)
        log.error("step %d: the evaluation failed: %s", step, text)


def _calling_handler() -> CallbackHandler | None:
    """The object of the Trainer that called the callback; callbacks are not told."""
    frame = inspect.currentframe()
    while frame is not None:
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler):
            return handler
        frame = frame.f_back
    return None


def _in_process_0(value: bool, args: Any) -> bool:
    """The value in process 0, in all of them: they must stop at the same step."""
    import torch

    if args.world_size == 1 or not torch.distributed.is_initialized():
        return value
    shared = torch.tensor([int(value)], device=args.device)
    torch.distributed.broadcast(shared, 0)
    return bool(shared.item())
