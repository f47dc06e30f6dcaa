"""tools/parity.py: the live comparison is pinned, decides nobody else's versions, and no other run collects it."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "parity")]

import ledger  # noqa: E402

import parity  # noqa: E402
import pins  # noqa: E402


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the check reads, where it can be broken."""
    (tmp_path / parity.FOLDER).mkdir(parents=True)
    for name in ("pyproject.toml", parity.FOLDER / "pyproject.toml", parity.FOLDER / "requirements.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_group_is_pinned_with_hashes_and_agrees_with_the_workspace() -> None:
    assert list(parity.problems(ROOT)) == []
    assert {str(requirement) for requirement in parity.group(ROOT)} == {
        "tinker-cookbook[math-rl]==0.6.1",
        "tinker==0.38.0",
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", '"tinker==0.38.0"', '"tinker>=0.38.0"', "tinker>=0.38.0 is no exact version"),
        (
            "pyproject.toml",
            '"tinker==0.38.0"',
            '"tinker==0.38.1"',
            "tinker==0.38.1 is pinned as tinker==0.38.0",
        ),
        ("requirements.txt", "numpy==", "numpy==0", "and the workspace has"),
        ("requirements.txt", "tinker==0.38.0 \\\n", "tinker==0.38.0\n", "has no hash"),
        (
            "requirements.txt",
            "tinker==0.38.0 \\\n",
            "--index-url https://host/simple\ntinker==0.38.0 \\\n",
            "address",
        ),
    ],
)
def test_a_disagreement_is_named(copy: Path, file: str, old: str, new: str, said: str) -> None:
    edit(copy / parity.FOLDER / file, old, new)
    assert any(said in problem for problem in parity.problems(copy)), list(parity.problems(copy))


def test_the_group_takes_no_part_in_the_resolution_of_the_workspace() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert ROOT / parity.FOLDER / "pyproject.toml" not in pins.pyprojects(ROOT)
    assert root["tool"]["uv"]["workspace"]["members"] == ["packages/*"]
    assert "tinker-cookbook" not in {pin.name for pin in pins.pins_of_block(ROOT)}
    assert "tinker-cookbook" not in (ROOT / "requirements.lock.txt").read_text()


def test_no_other_run_collects_the_comparisons() -> None:
    """pytest takes test_*.py and conftest.py by itself; here there is neither."""
    names = [path.name for path in (ROOT / parity.FOLDER).glob("**/*.py")]
    assert len([name for name in names if name.startswith("compare_")]) >= 6
    assert [
        name for name in names if name.startswith("test_") or name in {"conftest.py", "__init__.py"}
    ] == []


def test_tox_runs_it_when_it_is_named_and_not_otherwise() -> None:
    tox = (ROOT / "tox.ini").read_text()
    assert "[testenv:parity]\ncommands = python tools/parity.py run {posargs}" in tox
    listed = tox.partition("env_list =")[2].partition("\n\n")[0]
    assert "parity" not in listed
    assert "parity" not in (ROOT / ".ci" / "run").read_text()


def test_wheels_of_this_machine_are_found_as_pip_and_uv_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "a b")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    assert parity.link_folders() == ["a", "b"]
    monkeypatch.setenv("UV_FIND_LINKS", "c,d")
    assert parity.link_folders() == ["c", "d"]


def test_a_difference_that_nothing_explains_fails_and_the_kinds_are_few() -> None:
    found = ledger.Ledger()
    found.note("order", ledger.EQUAL)
    found.note("order", "schedule ends")
    with pytest.raises(AssertionError, match=r"order: 1 and not 2\n'the case'"):
        found.note("order", "1 and not 2", "the case")
    assert found.figures()["areas"] == [
        {"area": "order", "cases": 2, "equal": 1, "refused": 0, "explained": {"schedule ends": 1}}
    ]
    assert len(ledger.EXPLAINED) <= 12
