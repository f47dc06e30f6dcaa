"""The ledger of the session: printed at the end, and written for the evidence where that is asked for."""

from __future__ import annotations

import gzip
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from ledger import Ledger

settings.register_profile(
    "parity",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("parity")

_LEDGER = Ledger()


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    return _LEDGER


@pytest.fixture(scope="session")
def mini_folder(pytestconfig: pytest.Config) -> Path:
    """The vocabulary of 511 tokens that the recorded values were made with."""
    return pytestconfig.rootpath / "packages/crucible_train/tests/golden/tokenizers/mini"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives ``recorded_name`` each renderer whose output of that version was recorded."""
    if "recorded_name" in metafunc.fixturenames:
        folder = metafunc.config.rootpath / "packages/crucible_train/tests/golden"
        recorded = json.loads(gzip.decompress((folder / "renderers_mini.json.gz").read_bytes()))
        metafunc.parametrize("recorded_name", list(recorded["renderers"]))


def pytest_configure(config: pytest.Config) -> None:
    """What upstream warns about is no error of ours."""
    config.addinivalue_line("filterwarnings", "ignore:use_system_prompt:UserWarning")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was compared, area by area."""
    found = _LEDGER.figures()
    terminalreporter.section("parity", sep="-")
    for area in found["areas"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in area["explained"].items())
        line = (
            f"{area['area']}: {area['cases']} cases, {area['equal']} equal, {area['refused']} refused by both"
        )
        terminalreporter.write_line(f"{line}; {kinds}" if kinds else line)
    terminalreporter.write_line(f"{found['cases']} cases, no unexplained difference in what passed")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the figures where `tools/prove.py` asks for them; a whole run that never met a kind fails."""
    whole = not session.config.option.keyword and all(Path(word).is_dir() for word in session.config.args)
    unmet = [kind for kind, found in _LEDGER.figures()["explained"].items() if not found["cases"]]
    if whole and exitstatus == 0 and unmet:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(
            f"differences that no case showed, so that nothing explains them: {', '.join(unmet)}\n"
        )
    target = os.environ.get("PROOF_FIGURES")
    if target:
        upstream = {name: version(name) for name in ("tinker-cookbook", "tinker", "torch", "transformers")}
        text = json.dumps({"upstream": upstream, **_LEDGER.figures()}, ensure_ascii=False)
        Path(target).write_text(text, encoding="utf-8")
