"""Rules that hold for the distributions: what they declare, what importing them costs."""

import os
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECTS: dict[str, dict[str, Any]] = {
    data["project"]["name"]: data
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
    if (data := tomllib.loads(path.read_text()))
}
SDKS = {
    *(
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "safetensors",
        "accelerate",
        "datasets",
        "huggingface_hub",
    ),
    *(
        "tiktoken",
        "tinker",
        "mlflow",
        "opentelemetry",
        "fsspec",
        "pyarrow",
        "pandas",
        "sympy",
        "openai",
        "anthropic",
    ),
}
HELP_LIMIT_S = 0.3
HELP_LIMIT_STARTS = 12.0  # the same limit in bare starts of Python, for a machine that is slow or busy


def requirements(name: str) -> list[Requirement]:
    project = PROJECTS[name]["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(line) for lines in [project.get("dependencies", []), *extras] for line in lines]


def clean_env() -> dict[str, str]:
    """The environment without what makes a subprocess measure coverage."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE"))}


def modules_after(code: str) -> set[str]:
    """The top-level modules that stand in `sys.modules` after `code` ran in a new Python."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env=clean_env(),
        capture_output=True,
        text=True,
        check=True,
    )
    last_line = done.stdout.splitlines()[-1]  # the code itself may have printed
    return {name.partition(".")[0] for name in last_line.split()}


# --- what a distribution declares --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROJECTS)
def test_a_sibling_is_required_with_a_floor_and_a_ceiling_that_admit_its_version(name: str) -> None:
    for requirement in requirements(name):
        if requirement.name in PROJECTS:
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators == {">=", "<"}, f"{name}: {requirement}"
            version = PROJECTS[requirement.name]["project"]["version"]
            assert requirement.specifier.contains(version), f"{name}: {requirement} does not admit {version}"


@pytest.mark.parametrize("name", PROJECTS)
def test_an_outside_package_is_required_with_a_floor(name: str) -> None:
    bare = [
        str(requirement)
        for requirement in requirements(name)
        if not any(specifier.operator in {">=", "~=", "=="} for specifier in requirement.specifier)
    ]
    assert bare == []


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_is_static_typed_and_licensed(name: str) -> None:
    project = PROJECTS[name]["project"]
    assert "dynamic" not in project
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert "Typing :: Typed" in project["classifiers"]
    assert PROJECTS[name]["build-system"]["build-backend"] == "hatchling.build"


def test_the_workspace_knows_every_package_and_is_never_published() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(root["tool"]["uv"]["sources"]) == set(PROJECTS)
    assert root["tool"]["uv"]["package"] is False
    assert "Private :: Do Not Upload" in root["project"]["classifiers"]
    assert set(root["tool"]["coverage"]["run"]["source_pkgs"]) == {
        name.replace("-", "_") for name in PROJECTS
    }


def test_tox_has_an_environment_for_every_package() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tox", "list", "--no-desc", "-q"],
        cwd=ROOT,
        env={**clean_env(), "TOX_SKIP_ENV": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {f"py-{name}" for name in PROJECTS} <= set(listed.stdout.split())


# --- what importing costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROJECTS)
def test_importing_a_package_pulls_in_no_sdk(name: str) -> None:
    assert modules_after(f"import {name.replace('-', '_')}") & SDKS == set()


def test_the_command_line_starts_without_any_sdk_and_without_numpy() -> None:
    code = (
        "import sys\nsys.argv = ['crucible', '--help']\n"
        + command_line()
        + "\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert modules_after(code) & {*SDKS, "numpy", "scipy"} == set()


def command_line() -> str:
    """The import that the `crucible` script makes, with its function named `main`."""
    module, _, function = PROJECTS["crucible-kitchen"]["project"]["scripts"]["crucible"].partition(":")
    return f"from {module} import {function} as main"


def test_help_comes_within_three_tenths_of_a_second() -> None:
    script = Path(sys.executable).parent / "crucible"
    shown, bare = [], []
    for _ in range(7):
        bare.append(seconds([sys.executable, "-c", "pass"]))
        shown.append(seconds([str(script), "--help"]))
    limit = max(HELP_LIMIT_S, HELP_LIMIT_STARTS * statistics.median(bare))
    assert min(shown) < limit, f"--help took {min(shown):.3f} s; a bare start {min(bare):.3f} s"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=clean_env(), capture_output=True, check=True)
    return time.perf_counter() - start
