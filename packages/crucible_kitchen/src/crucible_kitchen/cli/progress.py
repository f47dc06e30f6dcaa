"""How far a run is: a bar with loss, tokens/s and time left on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from crucible_kitchen.remarks import remarks

__all__ = ["BarProgress", "LineProgress", "Progress", "Rate", "progress_for"]

PLAIN_EVERY_S = 5.0
"""At most one plain line in this time, first and last steps apart."""


class Progress(Protocol):
    """A listener of a run that is opened and closed around it."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, what: str, data: Mapping[str, Any]) -> None:
        """Something happened: an event, a row of metrics, or how far a long stage is."""
        ...


class Rate:
    """Tokens per second and seconds left, from the rows seen so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, float, int] | None = None
        self.tokens_per_s: float | None = None
        self.seconds_left: float | None = None

    def update(self, step: int, total: int | None, tokens: float) -> None:
        """One more step is done, with ``tokens`` trained so far; the first one only starts the clock."""
        now = self._clock()
        if self._first is None:
            self._first = (now, tokens, step)
            return
        began, before, first = self._first
        elapsed = now - began
        if elapsed <= 0 or step <= first:
            return
        self.tokens_per_s = (tokens - before) / elapsed
        if total is not None:
            self.seconds_left = max(0, total - 1 - step) * elapsed / (step - first)


def facts_of(metrics: Mapping[str, float]) -> str:
    """The two or three figures people watch."""
    shown = (
        *(("loss", "train_mean_nll"), ("loss", "dpo_loss"), ("accuracy", "accuracy")),
        *(("reward", "env/all/reward/total"), ("teacher kl", "teacher_kl"), ("entropy", "optim/entropy")),
        *(("held-out", "test/nll"), ("held-out", "test/preference_accuracy")),
        *(("held-out", "test/env/all/correct"), ("held-out kl", "test/teacher_kl")),
        *(("lr", "learning_rate"), ("lr", "optim/lr")),
    )
    found = {label: f"{label} {metrics[name]:.4g}" for label, name in shown if name in metrics}
    return "  ".join(found.values())


def is_step(metrics: Mapping[str, float]) -> bool:
    """Whether a row is that of a training step, not of an evaluation alone."""
    return "num_tokens" in metrics or "progress/done_frac" in metrics


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LineProgress:
    """Plain lines on standard error, a few of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = Rate(clock)
        self._total: int | None = None
        self._last = -PLAIN_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, what: str, data: Mapping[str, Any]) -> None:
        """Say stages as they start, steps now and then, and what should be read."""
        if what == "stage.started":
            self._say(f"{data['label']} …")
        elif what == "run.progress":
            self._total = data.get("total_steps", self._total)
        elif what == "metrics":
            self._row(data)
        for remark in remarks(what, data):
            self._say(f"note: {remark}")

    def _row(self, data: Mapping[str, Any]) -> None:
        metrics, step = data["metrics"], int(data["step"])
        if not is_step(metrics):
            if text := facts_of(metrics):
                self._say(text)
            return
        self._rate.update(step, self._total, metrics.get("tokens/cumulative/trained", 0.0))
        last = self._total is not None and step + 1 >= self._total
        if not last and self._clock() - self._last < PLAIN_EVERY_S:
            return
        self._last = self._clock()
        line = f"step {step + 1}/{self._total or '?'}  {facts_of(metrics)}"
        if self._rate.tokens_per_s is not None:
            line += f"  {self._rate.tokens_per_s:,.0f} tokens/s"
        if self._rate.seconds_left is not None and not last:
            line += f"  {duration(self._rate.seconds_left)} left"
        self._say(line)

    def _say(self, text: str) -> None:
        """A reader that went away (``2>&1 | head``) does not stop the run."""
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


class BarProgress:
    """A bar on standard error that redraws itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        self._rate = Rate(clock)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=Console(stderr=True),
            transient=False,
        )
        self._task = self._bar.add_task("starting", total=None, facts="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, data: Mapping[str, Any]) -> None:
        """Move the bar; what should be read stands above it."""
        task = self._bar.tasks[0]
        if what == "stage.started":
            self._bar.update(self._task, description=str(data["label"]).replace("_", " "))
        elif what == "run.progress":
            self._bar.update(self._task, total=data.get("total_steps"), description="training")
        elif what in ("rendering", "evaluating", "sampling the teacher"):
            self._bar.update(self._task, facts=f"{what} {data['done']}/{data['of']}")
        elif what == "metrics" and is_step(data["metrics"]):
            metrics, step = data["metrics"], int(data["step"])
            total = int(task.total) if task.total is not None else None
            self._rate.update(step, total, metrics.get("tokens/cumulative/trained", 0.0))
            facts = facts_of(metrics)
            if self._rate.tokens_per_s is not None:
                facts += f"  {self._rate.tokens_per_s:,.0f} tokens/s"
            if self._rate.seconds_left is not None:
                facts += f"  {duration(self._rate.seconds_left)} left"
            self._bar.update(self._task, completed=step + 1, description="training", facts=facts)
        for remark in remarks(what, data):
            self._bar.console.print(f"note: {remark}", markup=False, highlight=False, soft_wrap=True)


def progress_for(*, quiet: bool) -> Progress | None:
    """A bar on a terminal, lines in a pipe, nothing when quiet."""
    if quiet:
        return None
    return BarProgress() if sys.stderr.isatty() else LineProgress()
