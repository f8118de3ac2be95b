"""`harness watch`: look for checkpoints, evaluate each once, and show what is known so far."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.commands.evaluate.run import jobs_of
from harness.commands.evaluate.session import opened
from harness.commands.evaluate.watch import journal as journals
from harness.commands.evaluate.watch.candidates import Found
from harness.commands.evaluate.watch.completeness import Folder, Poll
from harness.commands.evaluate.watch.evaluation import Evaluation
from harness.commands.evaluate.watch.options import Until, WatchOptions
from harness.commands.evaluate.watch.progress import Progress
from harness.commands.options import RunOptions
from harness.display import terminal
from harness.engine.checkpoint.steps import FILE_SUFFIXES, step_of
from harness.errors import UsageError

STATE_DICT = "state dict"  # name of the format
MAX_NAMES = 3  # of files in one note


def run_watch(
    root: Path, tasks: Sequence[str], options: RunOptions, watch: WatchOptions, until: Until
) -> None:
    """Evaluate the checkpoints below a folder as they appear, until stopped.

    Raises:
        UsageError: with `once`, the folder does not exist; or another process watches for the same
            folder of records.
        HarnessError: what is not the fault of a checkpoint, as `run_tasks` raises it.
    """
    options.check()
    if root.exists() and not root.is_dir():
        raise UsageError(f"{str(root)!r} is a file; expected a folder with checkpoints")
    if watch.once and not root.exists():
        raise UsageError(f"there is no folder {str(root)!r}; without --once, watch waits for it")
    progress = Progress(options.output.leaderboard, watch.plot, watch.tensorboard)
    progress.check()
    jobs, reasons = jobs_of(tasks, options)
    with opened(options) as session, journals.opened(options.output.out) as journal:
        from harness.engine.checkpoint.placement.device import pick_device

        pick_device(options.model.device)  # an unknown one is no fault of the checkpoints
        left_out = [options.output.out, *filter(None, [watch.tensorboard, options.cache.folder])]
        # Without a config, a bare state dict is of no use, and an optimizer's state looks like one.
        ignored = () if options.model.config else (STATE_DICT,)
        folder = Folder(root, watch.settle, watch.once, left_out, ignored)
        evaluation = Evaluation(root, jobs, session, journal)
        Watcher(folder, watch, until, evaluation, progress).run()
        for reason in reasons.values():
            terminal.OUT.print(f"not run: {reason}")
        if paths := session.paths:
            count = f"{len(paths)} record{'s' * (len(paths) != 1)}"
            terminal.ERR.print(f"wrote {count} to {options.output.out}")


@dataclass(slots=True)
class Watcher:
    """The loop of a watch."""

    folder: Folder
    watch: WatchOptions
    until: Until
    evaluation: Evaluation
    progress: Progress
    _said: set[str] = field(default_factory=set)  # notes that are not repeated

    def run(self) -> None:
        """Evaluate what is complete, again and again until it is time to stop."""
        end = time.monotonic() + (self.until.seconds or float("inf"))
        self._start()
        while True:
            poll = self.folder.poll()
            self._report(poll)
            todo = self._todo(poll.complete)
            while todo and time.monotonic() < end:
                self.evaluation.run(todo[0])
                self._show()
                if not self.watch.once:  # newer ones may have come, or others gone
                    break
                todo = self._todo(todo[1:])
            else:
                if self.watch.once or self._is_over(poll) or time.monotonic() >= end:
                    return
                wait = min(self.watch.interval, poll.next_in or float("inf"))
                time.sleep(max(0.0, min(wait, end - time.monotonic())))

    def _start(self) -> None:
        """Show what an earlier watch has evaluated."""
        self._show()
        if refused := self.evaluation.refused():
            self._note(f"left out before, and tried again if changed: {_listed(refused)}")
        if not self.folder.root.exists():
            self._note(f"{self.folder.root}: waiting for the folder to appear")

    def _todo(self, complete: Sequence[Found]) -> list[Found]:
        """The checkpoints that have not been evaluated, in the order of evaluation."""
        todo = [found for found in complete if not self.evaluation.is_done(found)]
        if self._step_is_reached():
            todo = [found for found in todo if self._is_earlier(found.path)]
        steps = {found.path: step_of(str(found.path)) for found in todo}
        by_step = all(step is not None for step in steps.values())
        return sorted(
            todo,
            key=lambda f: ((steps[f.path] or 0) if by_step else 0, f.changed, f.path),
            reverse=self.watch.newest_first,
        )

    def _is_over(self, poll: Poll) -> bool:
        """Whether the last step is done, and no earlier one is about to be complete."""
        return self._step_is_reached() and not any(map(self._is_earlier, poll.settling))

    def _step_is_reached(self) -> bool:
        """Whether the checkpoint of the last step, or a later one, is done."""
        last = self.until.step
        steps = [e.step for e in self.evaluation.evaluated()]
        steps += [step_of(path) for path in self.evaluation.refused()]
        return last is not None and any(step is not None and step >= last for step in steps)

    def _is_earlier(self, path: Path) -> bool:
        """Whether a checkpoint is known to be before the last step."""
        step = step_of(str(path))
        return step is not None and step < (self.until.step or 0)

    def _show(self) -> None:
        if evaluated := self.evaluation.evaluated():
            self.progress.update(evaluated)

    def _report(self, poll: Poll) -> None:
        """Say what has gone and what is left, each once."""
        for path in poll.deleted:
            if not self.evaluation.was_tried(path):
                terminal.note(f"{self._name(path)} was deleted before it was evaluated")
        unmarked = "parts of it, or the marker of its program, are missing"
        for path in poll.unmarked:
            self._note(f"{self._name(path)} is not complete yet: {unmarked}")
        for path in poll.settling if self.watch.once else ():
            self._note(f"{self._name(path)} is left for the next time: it has changed within the "
                       f"last {self.watch.settle:g} s")  # fmt: skip
        # Such files come with every checkpoint; one name stands for all that differ in numbers.
        ignored = (path for path in poll.ignored if path.suffix in FILE_SUFFIXES)
        kinds = {re.sub(r"\d+", "0", path.name): self._name(path) for path in ignored}
        new = [name for kind, name in kinds.items() if kind not in self._said]
        self._said.update(kinds)
        if new:
            self._note(f"no checkpoints of a known format, ignored: {_listed(new)}")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder.root))

    def _note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            terminal.note(text)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}"
