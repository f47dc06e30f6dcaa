"""tools/pins.py: every way in which the three can disagree is seen, offline."""

import shutil
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import pins  # noqa: E402

LOCK = """version = 1
[options]
exclude-newer = "2026-01-01T00:00:00Z"
[manifest]
constraints = [{ name = "numpy", specifier = "==2.0.0" }, { name = "six", specifier = "==1.16.0" }]
[[package]]
name = "numpy"
version = "2.0.0"
source = { registry = "somewhere" }
[[package]]
name = "demo"
version = "0.1.0"
source = { editable = "packages/demo" }
"""


def hashed(name: str, version: str) -> str:
    return f"{name}=={version} \\\n    --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A small workspace in which everything agrees."""
    demo = tmp_path / "packages" / "demo"
    demo.mkdir(parents=True)
    (demo / "pyproject.toml").write_text(
        '[project]\nname = "demo"\ndependencies = ["numpy>=1.26,<3"]\n'
        '[project.optional-dependencies]\nmore = ["six>=1.10"]\n'
    )
    block = pins.block_of([pins.Pin(name="numpy", version="2.0.0"), pins.Pin(name="six", version="1.16.0")])
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "root"\ndependencies = ["demo[more]"]\n'
        f'[tool.uv]\nexclude-newer = "2026-01-01T00:00:00Z"\n{block}\n'
    )
    requirements = pins.HEADER + hashed("numpy", "2.0.0") + hashed("six", "1.16.0")
    (tmp_path / "requirements.lock.txt").write_text(requirements)
    (tmp_path / "uv.lock").write_text(LOCK)
    (tmp_path / ".gitignore").write_text("uv.lock\n")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_workspace_in_agreement_has_no_problem(workspace: Path) -> None:
    assert pins.check(workspace) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", "2026-01-01T00:00:00Z", "1 week", "must be absolute"),
        ("pyproject.toml", "2026-01-01T00:00:00Z", "2026-01-01", "must be absolute"),
        ("pyproject.toml", '  "six==1.16.0",\n', "", "six>=1.10 has no pin"),
        ("pyproject.toml", "numpy==2.0.0", "numpy>=2.0.0", "not an exact pin"),
        ("pyproject.toml", "numpy==2.0.0", "numpy==2.*", "not an exact pin"),
        ("pyproject.toml", '  "numpy==2.0.0",\n', '  "numpy==2.0.0", \n', "edited by hand"),
        ("pyproject.toml", "numpy==2.0.0", "numpy==2.1.0", "numpy==2.1.0 stands in the pins block only"),
        ("packages/demo/pyproject.toml", "numpy>=1.26", "numpy>=2.1", "does not admit the pinned 2.0.0"),
        ("packages/demo/pyproject.toml", "six>=1.10", "attrs>=20", "attrs>=20 has no pin"),
        (
            "requirements.lock.txt",
            "six==1.16.0",
            "six==1.17.0",
            "six==1.17.0 stands in requirements.lock.txt only",
        ),
        (
            "requirements.lock.txt",
            f" \\\n    --hash=sha256:{'0' * 64}\nsix",
            "\nsix",
            "numpy==2.0.0 has no hash",
        ),
        (
            "requirements.lock.txt",
            "numpy==2.0.0 \\",
            "--index-url https://host/simple\nnumpy==2.0.0 \\",
            "address",
        ),
        ("requirements.lock.txt", "numpy==2.0.0 \\", "--find-links wheels\nnumpy==2.0.0 \\", "an option"),
        (".gitignore", "uv.lock", "dist", "must be ignored"),
        ("uv.lock", "2026-01-01", "2025-01-01", "stale, made under another exclude-newer"),
        ("uv.lock", "==1.16.0", "==1.15.0", "stale, made under other pins"),
        ("uv.lock", 'version = "2.0.0"', 'version = "2.0.1"', "numpy 2.0.1 is not pinned"),
    ],
)
def test_a_disagreement_is_named(workspace: Path, file: str, old: str, new: str, said: str) -> None:
    edit(workspace / file, old, new)
    problems = pins.check(workspace)
    assert any(said in problem for problem in problems), problems
    assert all(not problem.startswith("Traceback") for problem in problems)


def test_an_exclude_newer_moved_forward_shows_the_lock_as_stale(workspace: Path) -> None:
    edit(workspace / "pyproject.toml", "2026-01-01", "2026-02-01")
    assert pins.check(workspace) == ["uv.lock: stale, made under another exclude-newer; delete it"]


def test_a_uv_toml_at_the_root_is_refused_because_it_voids_the_pins(workspace: Path) -> None:
    (workspace / "uv.toml").touch()
    assert ["uv.toml" in problem for problem in pins.check(workspace)] == [True]


def test_no_lock_is_no_problem_and_no_requirements_file_is_one(workspace: Path) -> None:
    (workspace / "uv.lock").unlink()
    assert pins.check(workspace) == []
    (workspace / "requirements.lock.txt").unlink()
    assert pins.check(workspace) == ["requirements.lock.txt: missing"]


def test_a_local_build_in_the_lock_counts_as_the_pinned_version(workspace: Path) -> None:
    edit(workspace / "uv.lock", 'version = "2.0.0"', 'version = "2.0.0+cpu"')
    assert pins.check(workspace) == []


def test_a_local_build_cannot_become_a_pin() -> None:
    with pytest.raises(pins.PinsError, match=r"torch==2\.13\.0\+cpu.*unset find-links"):
        pins.pins_of_export("torch==2.13.0+cpu\n")


def test_a_marker_stays_only_where_a_name_has_several_versions() -> None:
    text = "b==2 ; python_full_version >= '3.12'\nb==1 ; python_full_version < '3.12'\na==1 ; sys_platform == 'x'\n"
    assert [str(pin) for pin in pins.pins_of_export(text)] == [
        "a==1",
        "b==1 ; python_full_version < '3.12'",
        "b==2 ; python_full_version >= '3.12'",
    ]


def test_the_pinned_uv_is_the_one_that_the_makefile_brings(workspace: Path) -> None:
    (workspace / "Makefile").write_text("UV_VERSION := 1.0.0\n")
    block = pins.block_of([*pins.pins_of_block(workspace), pins.Pin(name="uv", version="1.0.1")])
    text = (workspace / "pyproject.toml").read_text()
    (workspace / "pyproject.toml").write_text(pins.with_block(text, block))
    assert any("UV_VERSION 1.0.0 is not the pinned uv 1.0.1" in problem for problem in pins.check(workspace))


def test_a_pyproject_without_one_block_is_refused() -> None:
    with pytest.raises(pins.PinsError, match="exactly one block"):
        pins.with_block("[project]\n", "")


# --- what uv does, shown offline with built wheels in a folder ----------------------------------------------


def wheel(folder: Path, name: str, version: str) -> None:
    """The least file that uv takes for a wheel."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@dataclass
class Project:
    """A project that needs `leaf`, of which a folder has versions."""

    folder: Path

    def declare(self, settings: str) -> None:
        head = '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["leaf"]\n'
        (self.folder / "pyproject.toml").write_text(f"{head}[tool.uv]\npackage = false\n{settings}\n")

    def lock(self, *options: str) -> dict[str, Any]:
        where = ("--offline", "--no-index", "--find-links", str(self.folder / "links"))
        pins.uv("lock", *where, *options, cwd=self.folder)
        return tomllib.loads((self.folder / "uv.lock").read_text())

    def leaf(self, *options: str) -> str:
        return next(p["version"] for p in self.lock(*options)["package"] if p["name"] == "leaf")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "links", "leaf", version)
    return Project(tmp_path)


def test_uv_obeys_the_pins_and_finds_a_lock_made_under_others_stale(project: Project) -> None:
    project.declare('constraint-dependencies = ["leaf==1.0"]')
    assert project.leaf() == "1.0"
    project.declare('constraint-dependencies = ["leaf==2.0"]')
    assert project.leaf() == "2.0"


def test_without_pins_an_older_lock_would_decide_the_version(project: Project) -> None:
    project.declare('constraint-dependencies = ["leaf==1.0"]')
    assert project.leaf() == "1.0"
    project.declare("")
    assert project.leaf() == "1.0"
    (project.folder / "uv.lock").unlink()
    assert project.leaf() == "2.0"


def test_a_uv_toml_beside_the_pyproject_voids_exclude_newer(project: Project) -> None:
    project.declare('exclude-newer = "2026-01-01T00:00:00Z"\nconstraint-dependencies = ["leaf==1.0"]')
    assert project.lock()["options"]["exclude-newer"] == "2026-01-01T00:00:00Z"
    (project.folder / "uv.toml").touch()
    assert "options" not in project.lock()


def test_pins_void_the_lowest_resolution_so_floors_are_tested_outside_the_workspace(project: Project) -> None:
    project.declare('constraint-dependencies = ["leaf==2.0"]')
    assert project.leaf("--resolution", "lowest-direct") == "2.0"
    project.declare("")
    (project.folder / "uv.lock").unlink()
    assert project.leaf("--resolution", "lowest-direct") == "1.0"


def test_the_repository_itself_is_in_agreement(tmp_path: Path) -> None:
    copy = pins.copy_of_workspace(ROOT, tmp_path)
    for name in ("requirements.lock.txt", ".gitignore", "Makefile"):
        shutil.copyfile(ROOT / name, copy / name)
    assert pins.check(copy) == []
