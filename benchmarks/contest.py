"""Contestants run in turn, each in a process of its own, so that a noisy machine is as noisy for all of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["Case", "Contestant", "Failure", "Guard", "Outcome", "Workload", "run_case"]

_PREFIX = "JSON "
_SECONDS = 1800

Figures = dict[str, Any]


class Failure(Exception):
    """A contestant ended without figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A command that prints its figures as the last line that starts with ``JSON``."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, threads: int) -> Figures:
        """The figures of one run with that many threads.

        Raises:
            Failure: it failed, took longer than half an hour, or printed no figures.
        """
        count = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "PEERS_THREADS": str(threads),
        }
        quiet = {"TOKENIZERS_PARALLELISM": "false", "PEERS_QUIET_WAIT": "0"}
        try:
            done = subprocess.run(
                self.command,
                cwd=self.folder,
                env={**os.environ, **count, **quiet, **self.environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{self.name} took longer than {_SECONDS} s: {' '.join(self.command)}") from error
        lines = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
        if done.returncode or not lines:
            last = (done.stderr or done.stdout).strip().splitlines()[-5:]
            raise Failure(f"{self.name} gave no figures ({' '.join(self.command)}):\n" + "\n".join(last))
        found: Figures = json.loads(lines[-1].removeprefix(_PREFIX))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What keeps a fast result honest: ``key`` of ours lies within ``band`` (relative) of the reference's."""

    key: str
    band: float
    reference: Contestant


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One configuration; the first contestant is ours, the others are what it is compared with."""

    label: str
    contestants: tuple[Contestant, ...]
    guard: Guard | None = None

    def without(self, name: str) -> Case:
        """The case without a contestant."""
        return replace(self, contestants=tuple(one for one in self.contestants if one.name != name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A kind of work: its cases, and the figure that is compared.

    ``goals`` says for a contestant what ratio ours must reach.
    """

    name: str
    title: str
    measure: str
    unit: str
    cases: Callable[[Sequence[str]], list[Case]]
    goals: Mapping[str, float]
    more_is_better: bool = True
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Figures of every run of a case by contestant, in the order of the rounds."""

    case: Case
    threads: int
    runs: Mapping[str, tuple[Figures, ...]]
    reference: Figures | None

    def guarded(self, guard: Guard) -> tuple[float, float, bool]:
        """Our value, the reference's, and whether every run of ours lies within the band."""
        if self.reference is None:
            raise Failure(f"{self.case.label}: the reference has not run")
        wanted = float(self.reference[guard.key])
        ours = [float(run[guard.key]) for run in self.runs[self.case.contestants[0].name]]
        worst = max(ours, key=lambda value: abs(value - wanted))
        return worst, wanted, abs(worst - wanted) <= guard.band * abs(wanted)


def run_case(case: Case, *, rounds: int, threads: int, tell: Callable[[str], None]) -> Outcome:
    """Every contestant once per round; the one that begins changes from round to round.

    Raises:
        Failure: a contestant gave no figures.
    """
    runs: dict[str, list[Figures]] = {contestant.name: [] for contestant in case.contestants}
    count = len(case.contestants)
    for number in range(rounds):
        for place in range(count):
            contestant = case.contestants[(place + number) % count]
            runs[contestant.name].append(contestant.run(threads))
        tell(f"{case.label}, {threads} thread(s): round {number + 1} of {rounds}")
    reference = case.guard.reference.run(threads) if case.guard else None
    frozen = {name: tuple(found) for name, found in runs.items()}
    return Outcome(case=case, threads=threads, runs=frozen, reference=reference)
