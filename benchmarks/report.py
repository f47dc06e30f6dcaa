"""What a run of a workload leaves: figures as JSON, a table between markers of the guide, a picture."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest import Failure, Outcome, Workload
from benchmarks.neighbours import ROOT
from benchmarks.ratio import Ratio, ratio_of

__all__ = ["GUIDE", "PICTURES", "RESULTS", "load", "put_picture", "put_table", "save", "summary", "table"]

RESULTS = ROOT / "benchmarks" / "results"
GUIDE = ROOT / "docs" / "performance.md"

PICTURES = ROOT / "docs" / "pictures"
_WORDS = {
    "peak_rss_mb": "peak memory, MB",
    "head_adds_mb": "output layer adds, MB",
    "tokens_per_s": "tokens per second of wall time",
}

Row = dict[str, Any]


def summary(workload: Workload, outcome: Outcome) -> Row:
    """One case as plain values: medians, ratios with spread, guard, and every run's figure."""
    ours, *others = outcome.case.contestants
    values = {name: [float(run[workload.measure]) for run in runs] for name, runs in outcome.runs.items()}
    ratios: dict[str, Ratio] = {
        other.name: ratio_of(values[ours.name], values[other.name], more_is_better=workload.more_is_better)
        for other in others
    }
    row: Row = {
        "case": outcome.case.label,
        "threads": outcome.threads,
        "rounds": len(values[ours.name]),
        "medians": {name: statistics.median(found) for name, found in values.items()},
        "runs": values,
        "ratios": {
            name: {"of_medians": r.of_medians, "lowest": r.lowest, "highest": r.highest}
            for name, r in ratios.items()
        },
        "also": {
            key: {
                name: statistics.median(float(run[key]) for run in runs)
                for name, runs in outcome.runs.items()
                if all(key in run for run in runs)
            }
            for key in workload.also
        },
    }
    if guard := outcome.case.guard:
        value, wanted, within = outcome.guarded(guard)
        row["guard"] = {
            "what": guard.key, "ours": value, "reference": wanted, "band": guard.band, "within": within
        }  # fmt: skip
    return row


def save(workload: Workload, rows: Sequence[Row]) -> Path:
    """Put rows in place of those of the same case and threads; the others stay, each with its own commit."""
    path = RESULTS / f"{workload.name}.json"
    kept = {(row["case"], row["threads"]): row for row in load(workload)}
    commit = _git("rev-parse", "--short", "HEAD")
    kept |= {(row["case"], row["threads"]): {**row, "commit": commit} for row in rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"workload": workload.name, "machine": _machine(), "rows": list(kept.values())}
    _replace(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def load(workload: Workload) -> list[Row]:
    """The saved rows; none where nothing was saved."""
    path = RESULTS / f"{workload.name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def table(workload: Workload, rows: Sequence[Row]) -> str:
    """A markdown table of the rows."""
    others = list(workload.goals)
    head = ["case", "threads", f"ours, {workload.unit}"]
    head += [f"ours / {name}" if workload.more_is_better else f"{name} / ours" for name in others]
    head += ["goal", *(_WORDS.get(key, key) for key in workload.also), "loss within its band"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        ratios = [_ratio(row["ratios"].get(name)) for name in others]
        goal = ", ".join(f"{name} ≥ {value:g}" for name, value in workload.goals.items())
        guard = row.get("guard")
        told = "–" if guard is None else f"{'yes' if guard['within'] else 'NO'} (±{guard['band']:.0%})"
        first = f"{row['medians']['ours']:,.4g}"
        also = [_each(row["also"].get(key, {})) for key in workload.also]
        lines.append([row["case"], str(row["threads"]), first, *ratios, goal, *also, told])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put_table(workload: Workload, rows: Sequence[Row], guide: Path = GUIDE) -> None:
    """Write the table between the guide's markers of that workload.

    Raises:
        Failure: the guide has no such markers.
    """
    begin, end = f"<!-- {workload.name}: begin -->", f"<!-- {workload.name}: end -->"
    text = guide.read_text(encoding="utf-8")
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise Failure(f"{guide} has no markers {begin} and {end}")
    _replace(guide, f"{before}{begin}\n\n{table(workload, rows)}\n\n{end}{after}")


def put_picture(workload: Workload, rows: Sequence[Row], folder: Path = PICTURES) -> Path:
    """Draw how ours compares with each other contestant, as a bar with its spread.

    Raises:
        Failure: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise Failure("matplotlib is not installed; uv sync --all-packages --group benchmarks") from error
    matplotlib.use("svg")
    from matplotlib import pyplot

    bars = [
        (f"{row['case']}, {row['threads']} thread(s), {name}", ratio)
        for row in reversed(rows)
        for name, ratio in row["ratios"].items()
    ]
    with matplotlib.rc_context({"svg.hashsalt": workload.name, "font.size": 8}):
        figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.3 * len(bars)), layout="constrained")
        middles = [ratio["of_medians"] for _, ratio in bars]
        spread = [
            [max(0.0, ratio["of_medians"] - ratio["lowest"]) for _, ratio in bars],
            [max(0.0, ratio["highest"] - ratio["of_medians"]) for _, ratio in bars],
        ]
        axes.barh([label for label, _ in bars], middles, xerr=spread, height=0.6, color="#4c78a8")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xlabel(f"{workload.title}: how many times better ours is")
        path = folder / f"{workload.name}.svg"
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
    return path


def _each(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in found.items()) or "–"


def _ratio(found: Mapping[str, float] | None) -> str:
    return (
        "–" if found is None else f"{found['of_medians']:.2f} ({found['lowest']:.2f}–{found['highest']:.2f})"
    )


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": model or platform.processor(),
        "bf16": sorted({"avx512_bf16", "amx_bf16"} & set(flags)),
        "python": platform.python_version(),
    }
