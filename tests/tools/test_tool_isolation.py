"""tools/isolation.py: what it takes a package to need, and that an undeclared import is found."""

import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import isolation  # noqa: E402


def package(folder: Path, name: str, core: list[str], **extras: list[str]) -> isolation.Package:
    return isolation.Package(
        name=name,
        folder=folder,
        core=tuple(map(Requirement, core)),
        extras={extra: tuple(map(Requirement, lines)) for extra, lines in extras.items()},
    )


def test_siblings_are_followed_through_core_and_named_extras(tmp_path: Path) -> None:
    known = {
        "a": package(tmp_path, "a", ["b>=0.1,<0.2"], more=["c"]),
        "b": package(tmp_path, "b", ["numpy"]),
        "c": package(tmp_path, "c", ["b"]),
    }
    assert isolation.siblings(Requirement("a"), known) == {"a", "b"}
    assert isolation.siblings(Requirement("a[more]"), known) == {"a", "b", "c"}
    assert isolation.siblings(Requirement("numpy"), known) == set()


def test_torch_is_seen_through_extras_and_siblings(tmp_path: Path) -> None:
    known = {
        "engine": package(tmp_path, "engine", ["torch>=2"]),
        "kitchen": package(tmp_path, "kitchen", ["numpy"], torch=["engine"]),
    }
    assert not isolation.is_heavy(Requirement("kitchen"), known)
    assert isolation.is_heavy(Requirement("kitchen[torch]"), known)


def test_the_tests_of_a_package_tell_which_tools_they_use(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "from hypothesis import given\n\ndef test_it(rng):\n    import numpy\n"
    )
    tools = isolation.test_tools(package(tmp_path, "x", []))
    assert set(tools) == {"pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "crucible-testing"}


def test_a_package_that_does_not_use_our_suites_does_not_get_them(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("def test_it():\n    rng = 1\n")
    assert "crucible-testing" not in isolation.test_tools(package(tmp_path, "x", []))


def test_every_package_of_the_workspace_is_read() -> None:
    known = isolation.packages()
    assert known["crucible-ir"].core
    assert isolation.siblings(Requirement("crucible-ir"), known) == {"crucible-ir"}
    assert not isolation.is_heavy(Requirement("crucible-kitchen"), known)
    assert isolation.is_heavy(Requirement("crucible-torch"), known)
