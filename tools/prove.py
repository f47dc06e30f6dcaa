"""Runs the claims at full size and writes the evidence: docs/evidence/NAME.json.

    python tools/prove.py              every proof of tools/proofs.toml that this machine can run
    python tools/prove.py NAME ...     these
    python tools/prove.py --list       what there is and what this machine cannot run

Evidence holds the claim, the commit, the machine, the duration, the verdict and the figures. A proof that cannot run
here is printed as not run and its older evidence stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One claim and the command whose success shows it."""

    name: str
    claim: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


def proofs() -> dict[str, Proof]:
    """The registered proofs by name."""
    listed = tomllib.loads((ROOT / "tools" / "proofs.toml").read_text(encoding="utf-8"))
    return {
        name: Proof(
            name=name,
            claim=entry["claim"],
            command=tuple(entry["command"]),
            needs=tuple(entry.get("needs", ())),
        )
        for name, entry in listed.items()
    }


def missing(proof: Proof) -> list[str]:
    """What the proof needs and this machine lacks."""
    data = Path(os.environ.get("CRUCIBLE_DATA") or ROOT.parent / "shared" / "data")
    has = {
        "data": data.is_dir(),
        "gpu": shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists(),
    }
    return [need for need in proof.needs if not has.get(need, bool(os.environ.get(need)))]


def git(*arguments: str) -> str:
    """git's answer about this checkout; empty where there is none."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that names the machine."""
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpus": [gpu for gpu in gpus if gpu],
        "python": platform.python_version(),
    }


def run(proof: Proof) -> dict[str, Any]:
    """Runs the proof and returns its evidence."""
    started, clock = datetime.now(UTC), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            proof.command,
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PROOF_FIGURES": str(figures), "CRUCIBLE_PROOF": "full"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        found = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    return {
        "proof": proof.name,
        "claim": proof.claim,
        "command": list(proof.command),
        "passed": done.returncode == 0,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(time.monotonic() - clock, 1),
        "machine": machine(),
        "figures": found,
        "last_lines": [line.replace(str(ROOT), ".") for line in done.stdout.splitlines()[-LAST_LINES:]],
    }


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the proofs and what they lack here")
    options = parser.parse_args(arguments)
    known = proofs()
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no proof is named {', '.join(unknown)}; there are {', '.join(known)}")
    failed = 0
    for proof in (known[name] for name in options.names or known):
        if lacks := missing(proof):
            print(f"not run: {proof.name} (needs {', '.join(lacks)})")
        elif options.list:
            print(f"{proof.name}: {proof.claim}")
        else:
            evidence = run(proof)
            EVIDENCE.mkdir(parents=True, exist_ok=True)
            text = json.dumps(evidence, indent=2, ensure_ascii=False)
            (EVIDENCE / f"{proof.name}.json").write_text(text + "\n", encoding="utf-8")
            verdict = "passed" if evidence["passed"] else "FAILED"
            print(f"{verdict}: {proof.name} in {evidence['duration_s']} s", flush=True)
            failed += not evidence["passed"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
