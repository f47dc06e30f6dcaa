"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crucible_kitchen.reports.facts import Gain, ReportFacts, SamplePair

__all__ = ["gain_sentence", "identity_rows", "markdown", "setting_rows"]


def gain_sentence(gain: Gain) -> str:
    """Before, after, the difference with its interval, and whether it counts as one."""
    d, interval = gain.difference, gain.difference.interval
    verdict = (
        "better: the interval lies above zero"
        if interval.low > 0
        else "worse: the interval lies below zero"
        if interval.high < 0
        else "not enough evidence: the interval holds zero"
    )
    return (
        f"{gain.measure.label} {gain.before:.4f} → {gain.after:.4f}{gain.measure.unit} on {d.n} examples; "
        f"mean gain {d.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}] (95 %), {verdict}"
    )


def identity_rows(facts: ReportFacts) -> list[tuple[str, str]]:
    """What the run is, part by part."""
    provenance, experiment = facts.provenance, facts.experiment
    rows = [("run", facts.run_id), ("recipe", experiment.recipe or "-"), ("config", experiment.config_digest)]
    for name in ("dataset", "eval_dataset"):
        ref = provenance.get(name)
        if ref:
            rows.append((name, f"{ref['id']} [{ref['split']}], {ref['rows']} rows"))
            rows += [
                (f"{name} {part}", str(ref[key]))
                for part, key in (
                    ("content", "digest"),
                    ("order", "order_digest"),
                    ("transform", "transform_digest"),
                )
                if ref.get(key)
            ]
    for name in ("model", "tokenizer", "renderer"):
        part = provenance.get(name)
        if part:
            label = part.get("id") or part.get("name") or ""
            rows.append((name, f"{label} {part.get('digest', '')}".strip()))
    for name, part in (
        ("code", "revision"),
        ("code", "patch"),
        ("environment", "digest"),
        ("backend", "name"),
    ):
        value = (provenance.get(name) or {}).get(part)
        if value:
            rows.append((name if part != "patch" else "uncommitted changes", str(value)))
    if facts.weights:
        rows.append(("weights", f"{facts.weights['path']} {facts.weights.get('digest') or ''}".strip()))
    rows.append(("seed", str(experiment.seed)))
    return rows


def setting_rows(facts: ReportFacts) -> list[tuple[str, str]]:
    """The recipe's settings with dotted names; those that are not set are left out."""
    return list(_flat(facts.experiment.settings, ""))


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value not in ((), []):
            yield f"{prefix}{name}", str(value)


def markdown(facts: ReportFacts) -> str:
    """The whole report."""
    parts = [f"# {_quoted(facts.experiment.id)}: {facts.run_id}", ""]
    parts += [
        *(f"**Result.** {gain_sentence(gain)}\n" for gain in facts.gains),
        *(() if facts.gains else ("**Result.** No held-out comparison.\n",)),
    ]
    if facts.remarks:
        parts += ["## Notes", "", *(f"- {_quoted(remark)}" for remark in facts.remarks), ""]
    if facts.rows:
        last = facts.rows[-1]
        parts += ["## Last metrics", "", "| metric | value |", "|---|---|"]
        parts += [f"| `{name}` | {value:.6g} |" for name, value in sorted(last.metrics.items())]
        parts.append("")
    if facts.samples:
        parts += ["## Samples", ""]
        for sample in facts.samples:
            parts += _sample(sample)
    settings = setting_rows(facts)
    if settings:
        parts += ["## Settings", "", "| setting | value |", "|---|---|"]
        parts += [f"| `{name}` | `{_in_cell(value)}` |" for name, value in settings]
        parts.append("")
    parts += ["## Identity", "", "| part | value |", "|---|---|"]
    parts += [f"| {name} | `{_in_cell(value)}` |" for name, value in identity_rows(facts)]
    return "\n".join(parts) + "\n"


def _sample(sample: SamplePair) -> list[str]:
    asked = next((str(m.get("content")) for m in reversed(sample.prompt) if m.get("role") == "user"), "")
    lines = [f"**Prompt.** {_quoted(asked)}", "", f"- wanted: {_quoted(sample.reference)}"]
    if sample.before is not None:
        lines.append(f"- before: {_quoted(sample.before)}")
    return [*lines, f"- after: {_quoted(sample.after)}", ""]


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
