"""Everything a report says about a run, gathered once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crucible_ir import ExampleResult, Experiment, MetricRow
from crucible_kitchen.atomic import read_lines
from crucible_kitchen.remarks import remarks
from crucible_kitchen.reports.measures import MEASURES, Measure

if TYPE_CHECKING:
    from crucible_stats import PairedDifference

__all__ = [
    "Gain",
    "ReportFacts",
    "SamplePair",
    "gather",
    "held_out_gain",
    "held_out_gains",
    "sample_pairs",
]


_SHOWN = 6
"""Attempts at problems that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How a measure changed between two evaluations of the same held-out examples.

    ``difference`` is per example and signed so that more is better.
    """

    measure: Measure

    step_before: int
    step_after: int
    before: float
    after: float
    difference: PairedDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePair:
    """A held-out prompt with the answers before and after training."""

    prompt: Sequence[Mapping[str, Any]]
    reference: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What the report shows."""

    run_id: str
    experiment: Experiment
    provenance: Mapping[str, Any]
    rows: Sequence[MetricRow]
    gains: Sequence[Gain]
    samples: Sequence[SamplePair]
    weights: Mapping[str, Any] | None
    remarks: Sequence[str] = ()
    """Rows left out and why, and warnings."""

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Points of the curves worth drawing."""
        names = (
            *("train_mean_nll", "test/nll", "dpo_loss", "accuracy", "test/preference_accuracy"),
            *("env/all/reward/total", "test/env/all/reward/total", "test/env/all/correct"),
            *("teacher_kl", "test/teacher_kl", "optim/entropy", "optim/kl_sample_train_v1"),
            *("learning_rate", "optim/lr", "unclipped_grad_l2:mean"),
        )
        found = {name: [(r.step, r.metrics[name]) for r in self.rows if name in r.metrics] for name in names}
        return {name: points for name, points in found.items() if points}


def gather(
    run_dir: Path,
    *,
    experiment: Experiment,
    provenance: Mapping[str, Any],
    rows: Sequence[MetricRow],
    weights: Mapping[str, Any] | None,
) -> ReportFacts:
    """Read what the run left in its folder."""
    return ReportFacts(
        run_id=run_dir.name,
        experiment=experiment,
        provenance=provenance,
        rows=rows,
        gains=held_out_gains(run_dir),
        samples=sample_pairs(run_dir),
        weights=weights,
        remarks=_remarks(run_dir / "events.jsonl"),
    )


def _remarks(log: Path) -> list[str]:
    """Each once, though a resumed run says it again."""
    if not log.is_file():
        return []
    said = (remark for event in _lines(log) for remark in remarks(event["type"], event["data"]))
    return list(dict.fromkeys(said))


def held_out_gain(run_dir: Path) -> Gain | None:
    """The gain in the run's first measure; None where nothing can be compared."""
    return next(iter(held_out_gains(run_dir)), None)


def held_out_gains(run_dir: Path) -> list[Gain]:
    """First against last evaluation of each measure with two or more, paired by example.

    Examples without a finite score before are left out of both sides. Where a finite score became one that is
    not, there is no comparison: leaving those out would make a model that went astray look better.
    """
    found = ((m, sorted((run_dir / "results").glob(f"{m.prefix}_[0-9]*.jsonl"))) for m in MEASURES)
    gains = (_gain(measure, files) for measure, files in found if len(files) > 1)
    return [gain for gain in gains if gain is not None]


def _gain(measure: Measure, files: Sequence[Path]) -> Gain | None:
    from crucible_stats import paired_difference  # brings scipy, which no run needs until its end

    first, last = _scores(files[0]), _scores(files[-1])
    ids = [i for i in first if i in last and math.isfinite(first[i])]
    if len(ids) < 2 or not all(math.isfinite(last[i]) for i in ids):
        return None
    before, after = [first[i] for i in ids], [last[i] for i in ids]
    return Gain(
        measure=measure,
        step_before=_step(files[0]),
        step_after=_step(files[-1]),
        before=sum(before) / len(ids),
        after=sum(after) / len(ids),
        difference=paired_difference(*measure.gain(before, after)),
    )


def _scores(path: Path) -> dict[str, float]:
    records = (ExampleResult.model_validate_json(line) for line in read_lines(path))
    return {record.example_id: record.score for record in records}


def _step(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def sample_pairs(run_dir: Path) -> list[SamplePair]:
    """Answers of the last sampling, beside those of the first where there are two; else attempts at problems."""
    files = sorted((run_dir / "results").glob("samples_*.jsonl"))
    if not files:
        tried = (sorted((run_dir / "results").glob(f"{m}_[0-9]*.jsonl")) for m in ("reward", "teacher_kl"))
        return next((found for files in tried if (found := _attempts(files))), [])
    first = {line["example_id"]: line for line in _lines(files[0])} if len(files) > 1 else {}
    return [
        SamplePair(
            prompt=line["prompt"],
            reference=_text(line["reference"]),
            before=_text(first[line["example_id"]]["answer"]) if line["example_id"] in first else None,
            after=_text(line["answer"]),
        )
        for line in _lines(files[-1])
    ]


def _attempts(files: Sequence[Path]) -> list[SamplePair]:
    """The first held-out problems with their answers before and after."""
    if not files:
        return []
    before = {line["example_id"]: line["detail"] for line in _lines(files[0])} if len(files) > 1 else {}
    return [
        SamplePair(
            prompt=[{"role": "user", "content": line["detail"]["question"]}],
            reference=str(line["detail"].get("reference_answer", "")),
            before=before.get(line["example_id"], {}).get("answer"),
            after=str(line["detail"].get("answer", "")),
        )
        for line in _lines(files[-1])[:_SHOWN]
        if "question" in line["detail"]
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(path)]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
