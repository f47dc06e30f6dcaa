"""The evidence of `make prove` stands: each file is of a registered proof, passed, and of a commit of this history."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROOFS = tomllib.loads((ROOT / "tools" / "proofs.toml").read_text())
EVIDENCE = sorted((ROOT / "docs" / "evidence").glob("*.json"))
KEYS = {"proof", "claim", "command", "passed", "commit", "started", "duration_s", "machine", "figures"}


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_proof_states_a_claim_and_a_command() -> None:
    for name, proof in PROOFS.items():
        assert set(proof) <= {"claim", "command", "needs"}, name
        assert proof["claim"].endswith("."), name
        assert proof["command"], name


def test_evidence_is_of_a_registered_proof_that_passed() -> None:
    for path in EVIDENCE:
        evidence = read(path)
        assert set(evidence) >= KEYS, path.name
        assert evidence["proof"] == path.stem
        assert evidence["claim"] == PROOFS[path.stem]["claim"]
        assert evidence["passed"] is True, path.name


def test_evidence_names_an_ancestor_of_this_commit() -> None:
    whole = git("rev-parse", "--is-shallow-repository").stdout.strip() == "false"
    for path in EVIDENCE:
        commit = read(path)["commit"]
        assert re.fullmatch(r"[0-9a-f]{40}", commit), path.name
        if whole:
            assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, (
                f"{path.name}: {commit}"
            )
