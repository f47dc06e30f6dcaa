"""``crucible quickstart``: a real model learns from real text, on any laptop, in a few minutes."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from crucible_cookbook.lessons import LESSONS, Lesson, experiment
from crucible_ir import ConfigError, ExitCode, RunRecord, nearest
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, Quiet
from crucible_kitchen.cli.output import print_json, print_line
from crucible_kitchen.cli.progress import progress_for
from crucible_kitchen.reports.facts import Gain, SamplePair, held_out_gains, sample_pairs

__all__ = ["Shown", "chosen", "quickstart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A lesson that was run, and what came of it."""

    lesson: Lesson
    record: RunRecord
    folder: Path
    seconds: float
    gains: Sequence[Gain]

    @property
    def learned(self) -> bool:
        """Whether every measure got better by more than chance explains."""
        return bool(self.gains) and all(gain.difference.interval.low > 0 for gain in self.gains)


Only = Annotated[
    str | None, typer.Option("--only", help="Run the lesson of one recipe, with those it builds on.")
]


def quickstart(
    only: Only = None, as_json: AsJson = False, quiet: Quiet = False, home: HomeOption = None
) -> int:
    """Train the bundled tiny model with every recipe, and measure what it learned."""
    lessons = chosen(only)
    if not as_json:
        what = "one recipe" if len(lessons) == 1 else f"{len(lessons)} recipes"
        print_line(f"{what} on the bundled tiny model and data; no GPU, account or network is used")
    shown: list[Shown] = []
    for lesson in lessons:
        if not as_json:
            print_line(f"\n{lesson.recipe}: {lesson.about}")
        shown.append(_run(lesson, shown, home=home, silent=quiet or as_json))
        if not as_json:
            _tell(shown[-1])
    if as_json:
        print_json({"lessons": [_body(one) for one in shown]})
    else:
        _tell_all(shown)
    return 0 if all(one.learned for one in shown) else int(ExitCode.FAILED)


def chosen(only: str | None) -> list[Lesson]:
    """All lessons, or that of one recipe with those it builds on.

    Raises:
        ConfigError: there is no such lesson; names the nearest.
    """
    if only is None:
        return list(LESSONS)
    by_name = {lesson.recipe: lesson for lesson in LESSONS}
    if only not in by_name:
        near = nearest(only, by_name)
        raise ConfigError(
            what=f"the quickstart has no lesson {only!r}",
            where="--only",
            remedy=f"did you mean {near!r}?" if near else f"it has {', '.join(by_name)}",
        )
    return [by_name[name] for name in (*by_name[only].after, only)]


def _run(lesson: Lesson, shown: Sequence[Shown], *, home: Path | None, silent: bool) -> Shown:
    made = experiment(lesson, {one.lesson.recipe: one.folder for one in shown})
    began = time.monotonic()
    progress = progress_for(quiet=silent)
    if progress is None:
        record = Crucible(home).run(made, tags=("quickstart",))
    else:
        with progress:
            record = Crucible(home, listeners=(progress,)).run(made, tags=("quickstart",))
    folder = Crucible(home).service.store.open(record.run_id).path
    return Shown(
        lesson=lesson,
        record=record,
        folder=folder,
        seconds=time.monotonic() - began,
        gains=held_out_gains(folder),
    )


def _body(one: Shown) -> dict[str, Any]:
    return {
        "recipe": one.lesson.recipe,
        "run": one.record.model_dump(mode="json"),
        "report": str(one.folder / "report.html"),
        "seconds": round(one.seconds, 1),
        "gains": [
            {
                "measure": gain.measure.label,
                "examples": gain.difference.n,
                "before": gain.before,
                "after": gain.after,
                "mean": gain.difference.mean,
                "low": gain.difference.interval.low,
                "high": gain.difference.interval.high,
                "confidence": gain.difference.interval.confidence,
            }
            for gain in one.gains
        ],
    }


def _tell(one: Shown) -> None:
    for sample in sample_pairs(one.folder)[:2]:
        _tell_sample(sample)
    for gain in one.gains:
        print_line(f"  {_figures(gain)}")
    print_line(f"  report {one.folder / 'report.html'}")


def _tell_sample(sample: SamplePair) -> None:
    asked = next((str(m.get("content")) for m in reversed(sample.prompt) if m.get("role") == "user"), "")
    print_line(f"  prompt {_short(asked)}")
    print_line(f"  before {_short(sample.before or '')}")
    print_line(f"  after  {_short(sample.after)}")


def _figures(gain: Gain) -> str:
    interval = gain.difference.interval
    return (
        f"{gain.measure.label} {gain.before:.3f} → {gain.after:.3f}{gain.measure.unit} on {gain.difference.n} "
        f"examples, gain {gain.difference.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    )


def _tell_all(shown: Sequence[Shown]) -> None:
    print_line("\nlearned, with 95 % intervals over held-out examples")
    for one in shown:
        verdict = "yes" if one.learned else "NO "
        for gain in one.gains or (None,):
            text = "no held-out comparison" if gain is None else _figures(gain)
            print_line(f"  {verdict} {one.lesson.recipe:<13}{text}")
    print_line("")
    if any(one.learned and one.lesson.recipe == "sl_basic" for one in shown):
        print_line(
            "note   sl_basic learned how Pip talks; a model this small does not learn sums from such chats"
        )
    script = None if shutil.which("crucible") else _activation()
    if script:
        print_line(f"first  . {script}  (puts crucible on this shell's path)")
    print_line("next   crucible runs; crucible show last")
    print_line(
        "       crucible run sl_basic model=tiny data.path=YOUR_CHATS.jsonl data.test_size=50 batch_size=16"
    )


def _activation() -> str | None:
    """The script to source for ``crucible`` to be found, seen from here."""
    script = Path(sys.prefix) / "bin" / "activate"
    if not script.is_file():
        return None
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), width=100, placeholder=" …")
