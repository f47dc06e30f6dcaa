"""From the shell to the end of the first optimiser step, beside what the imports alone cost.

    python -m benchmarks.startup [--rounds 7]          all, in turn
    python -m benchmarks.startup --only run            one process of one kind

``run`` is ``crucible run sl_basic model=tiny …``, stopped at its first row of metrics; ``imports`` is Python, torch and
the model class of transformers; ``torch`` is Python and torch. Times are processor seconds of the process (and its
wall clock beside them), read from outside: nothing in the measured process is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["KINDS", "main", "measure"]

Figures = dict[str, float]

_SETTINGS = (
    "model=tiny",
    "data.path=tiny",
    "batch_size=8",
    "max_steps=1",
    "eval_every=0",
    "sample_prompts=0",
)
_IMPORTS = "import torch; from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM"
_COMMANDS = {
    "run": (sys.executable, "-m", "crucible_kitchen", "run", "sl_basic", *_SETTINGS, "--json"),
    "imports": (sys.executable, "-c", _IMPORTS),
    "torch": (sys.executable, "-c", "import torch"),
}
KINDS = tuple(_COMMANDS)
_POLL_S = 0.005


def measure(kind: str) -> Figures:
    """One fresh process: processor and wall seconds to its first row of metrics, or to its end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CRUCIBLE_HOME": folder}
        started = time.perf_counter()
        process = subprocess.Popen(
            _COMMANDS[kind], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if kind == "run":
                _first_row(process, Path(folder))
                figures = {"cpu_s": _cpu_of(process.pid), "wall_s": time.perf_counter() - started}
                process.terminate()
                process.wait()
                return figures
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise SystemExit(f"{kind} failed with {process.returncode}")
        return {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": time.perf_counter() - started}


def _first_row(process: subprocess.Popen[bytes], home: Path) -> None:
    while not any(path.stat().st_size for path in home.glob("runs/*/metrics.jsonl")):
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode} before its first step")
        time.sleep(_POLL_S)


def _cpu_of(pid: int) -> float:
    """User and system seconds of a process that runs, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> int:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=KINDS, action="append")
    options = parser.parse_args(arguments)
    kinds = options.only or list(KINDS)
    runs: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for place in range(len(kinds)):
            kind = kinds[(place + number) % len(kinds)]
            runs[kind].append(measure(kind))
            sys.stderr.write(f"{kind} {runs[kind][-1]}\n")
    figures = {kind: _told(found) for kind, found in runs.items()}
    sys.stdout.write(f"JSON {json.dumps(figures)}\n")
    return 0


def _told(found: Sequence[Figures]) -> dict[str, list[float]]:
    """Median, least and greatest of each figure."""
    keys = found[0]
    columns = {key: sorted(one[key] for one in found) for key in keys}
    return {
        key: [round(value, 2) for value in (statistics.median(column), column[0], column[-1])]
        for key, column in columns.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
