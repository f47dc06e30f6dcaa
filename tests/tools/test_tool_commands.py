"""The Makefile and .ci/run, seen from outside."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run_ci(
    folder: Path, tests: str, status: int = 0, late: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a copy of .ci/run in which make and python are stand-ins."""
    (folder / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "run", folder / ".ci" / "run")
    script(folder / "bin" / "make", f'case "$*" in *test*) echo "{tests}"; exit {status};; esac')
    script(folder / ".venv/bin/python", f'case "$*" in *list*) echo py-a;; *"-e py-a"*) exit {late};; esac')
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(folder / ".ci" / "run")],
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_ci_closes_with_the_count_of_tests_and_steps(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "====== 40 passed, 2 deselected in 3.21s ======")
    assert done.stdout.splitlines()[-1] == "46 passed, 0 failed"
    assert done.returncode == 0


def test_ci_fails_when_a_test_fails(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "1 failed, 40 passed, 1 error in 3.21s", status=2)
    assert done.stdout.splitlines()[-2:] == ["failed step: make test", "45 passed, 3 failed"]
    assert done.returncode == 1


def test_ci_fails_when_a_package_fails_outside_the_workspace(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "40 passed in 1s", late=1)
    assert done.stdout.splitlines()[-2:] == ["failed step: py-a", "45 passed, 1 failed"]
    assert done.returncode == 1


def test_ci_says_which_steps_the_time_did_not_allow(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "40 passed in 1s", CI_LIMIT_S="0")
    assert "not run: wheels outside the workspace (out of time)" in done.stdout
    assert "not run: py-a (out of time)" in done.stdout
    assert done.stdout.splitlines()[-1] == "42 passed, 0 failed"


def test_every_target_that_make_help_lists_is_there() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)
    assert {"quickstart", "test", "check", "format", "prove", "build", "tiny", "docs-check", "clean"} <= set(
        names
    )
    phony = set(
        " ".join(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)).split()
    )
    assert set(names) <= phony


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ({"PIP_FIND_LINKS": "one two"}, "UV_FIND_LINKS=one,two"),
        ({"PIP_FIND_LINKS": "one", "UV_FIND_LINKS": "own"}, "UV_FIND_LINKS=own"),
        ({"PIP_INDEX_URL": "mirror"}, "UV_DEFAULT_INDEX=mirror"),
        ({"VIRTUAL_ENV": "elsewhere"}, None),
    ],
)
def test_uv_hears_what_pip_is_told(tmp_path: Path, given: dict[str, str], heard: str | None) -> None:
    text = (ROOT / "Makefile").read_text() + "\nshow:\n\t@env\n"
    (tmp_path / "Makefile").write_text(text)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_", "MAKE"))}
    shown = subprocess.run(
        ["make", "show"], cwd=tmp_path, env={**kept, **given}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert heard is None or heard in shown
    assert not any(line.startswith("VIRTUAL_ENV=") for line in shown)
