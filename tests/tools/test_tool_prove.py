"""tools/prove.py: evidence says what ran, where and with which result; what cannot run is named."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import prove  # noqa: E402

WRITES = "import json, os; json.dump({'n': 3}, open(os.environ['PROOF_FIGURES'], 'w')); print('done')"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Three proofs: one that passes, one that fails, one that needs a key which is not set."""
    found = {
        "good": prove.Proof(name="good", claim="It works.", command=(sys.executable, "-c", WRITES)),
        "bad": prove.Proof(
            name="bad", claim="It fails.", command=(sys.executable, "-c", "raise SystemExit(3)")
        ),
        "keyed": prove.Proof(
            name="keyed", claim="It is live.", command=("false",), needs=("CRUCIBLE_NO_SUCH_KEY",)
        ),
    }
    monkeypatch.setattr(prove, "proofs", lambda: found)
    monkeypatch.setattr(prove, "EVIDENCE", tmp_path)
    return tmp_path


def test_evidence_has_the_verdict_the_figures_the_commit_and_the_machine(registry: Path) -> None:
    assert prove.main(["good"]) == 0
    evidence = json.loads((registry / "good.json").read_text())
    assert evidence["passed"] is True
    assert evidence["figures"] == {"n": 3}
    assert evidence["last_lines"] == ["done"]
    assert evidence["commit"] == prove.git("rev-parse", "HEAD")
    assert evidence["machine"]["cores"] >= 1
    assert evidence["duration_s"] >= 0


def test_a_failed_proof_fails_the_command_and_its_evidence_says_so(registry: Path) -> None:
    assert prove.main(["bad"]) == 1
    assert json.loads((registry / "bad.json").read_text())["passed"] is False


def test_what_cannot_run_here_is_printed_and_leaves_no_evidence(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prove.main(["keyed"]) == 0
    assert "not run: keyed (needs CRUCIBLE_NO_SUCH_KEY)" in capsys.readouterr().out
    assert not (registry / "keyed.json").exists()


def test_an_unknown_proof_is_named_with_those_there_are(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        prove.main(["goood"])
    assert "no proof is named goood; there are good, bad, keyed" in capsys.readouterr().err


def test_the_registry_in_the_repository_can_be_read() -> None:
    assert "reproducible-install" in prove.proofs()
