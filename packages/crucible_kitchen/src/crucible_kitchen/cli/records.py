"""How verbs show runs."""

from __future__ import annotations

from pathlib import Path

from crucible_ir import ExitCode, RunRecord, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.output import print_json, print_line

__all__ = ["exit_code_of", "print_outcome", "print_record"]

_CODES = {
    RunState.FAILED: ExitCode.FAILED,
    RunState.WAITING_APPROVAL: ExitCode.WAITING_APPROVAL,
    RunState.INTERRUPTED: ExitCode.INTERRUPTED,
    RunState.CANCELLED: ExitCode.INTERRUPTED,
}


def exit_code_of(record: RunRecord) -> int:
    """The exit code that tells a script how the run stands."""
    return int(_CODES.get(record.state, ExitCode.OK))


def print_outcome(record: RunRecord, crucible: Crucible, *, as_json: bool) -> None:
    """Where the run stands, where its report is, and what to type next."""
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    print_record(record)
    folder = crucible.service.store.open(record.run_id).path
    for gain in _gains(folder) if record.state is RunState.COMPLETED else ():
        print_line(f"{'result':<12}{gain}")
    for name in ("report.md", "report.html"):
        if (folder / name).is_file():
            print_line(f"{name:<12}{folder / name}")
    if record.state is RunState.WAITING_APPROVAL:
        print_line(f"next        crucible decide {record.run_id} --yes")
    elif record.state in (RunState.CREATED, RunState.RUNNING):
        print_line(f"next        crucible logs {record.run_id} -f")
    else:
        print_line(f"next        crucible show {record.run_id}")


def _gains(folder: Path) -> list[str]:
    """What the report says was gained; nothing for a run that writes no report, which has measured nothing."""
    if not (folder / "report.md").is_file():
        return []
    from crucible_kitchen.reports.facts import held_out_gains
    from crucible_kitchen.reports.markdown import gain_sentence

    return [gain_sentence(gain) for gain in held_out_gains(folder)]


def print_record(record: RunRecord) -> None:
    """The record, a fact a line."""
    steps = f"{record.step}" + (f"/{record.total_steps}" if record.total_steps is not None else "")
    facts = [
        ("run", record.run_id),
        ("state", str(record.state)),
        ("recipe", record.recipe or record.experiment_id),
        ("steps", steps),
        ("tags", ", ".join(record.tags)),
        ("parent", record.parent_run or ""),
        ("created", f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    if record.started_at and record.ended_at:
        facts.append(("took", f"{(record.ended_at - record.started_at).total_seconds():.1f} s"))
    facts += [(name, f"{value:.6g}") for name, value in sorted(record.metrics.items())]
    if record.waiting_for:
        request = record.waiting_for.get("request", record.waiting_for)
        facts.append(("asks", str(request.get("question", request))))
    if record.error:
        facts.append(("error", record.error))
    for name, value in facts:
        if value:
            print_line(f"{name:<11} {value}")
