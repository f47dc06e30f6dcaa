"""The import contracts of the root pyproject: each one, broken on purpose, fails."""

import ast
import os
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract["name"] for contract in SETTINGS["contracts"]}

# Module that gets the line, the line, and the contracts that must break.
BREACHES = [
    ("crucible_ir.record", "import crucible_train", "layers"),
    ("crucible_train.loss", "def late():\n    import crucible_datasets", "layers"),
    ("crucible_telemetry.log", "from crucible_registry import models", "layers"),
    ("crucible_torch.engine", "import crucible_kitchen", "layers"),
    ("crucible_kitchen.run", "import crucible_cookbook", "layers recipes"),
    ("crucible_kitchen.cli", "import crucible_tiny", "recipes"),
    ("crucible_kitchen.serve", "import crucible_gateway", "layers"),
    ("crucible_gateway.service", "import crucible_torch", "gateway"),
    ("crucible_gateway.codec", "import tinker", "vendors"),
    ("crucible_stats.tests", "import crucible_testing", "layers testing"),
    ("crucible_tiny.model", "import crucible_ir", "tiny"),
    ("crucible_ir.record", "import numpy", "contracts"),
    ("crucible_train.loss", "import torch", "numpy-only engine"),
    ("crucible_kitchen.stages", "import transformers", "engine"),
    ("crucible_cookbook.loop", "import peft", "engine"),
    ("crucible_kitchen.stages", "import datasets", "vendors"),
    ("crucible_torch.hub", "import huggingface_hub", "vendors"),
]


def skeleton(folder: Path) -> Path:
    """Empty packages under the real contracts."""
    for package in SETTINGS["root_packages"]:
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    text = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(text)
    return folder


def plant(folder: Path, module: str, line: str) -> None:
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(line + "\n")


def broken(folder: Path) -> set[str]:
    """The ids of the contracts that fail in `folder`."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in CONTRACTS.values()), done.stdout
    found = {key for key, name in CONTRACTS.items() if f"{name} BROKEN" in lines}
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return found


def test_every_contract_is_broken_by_some_case() -> None:
    assert {key for _, _, contracts in BREACHES for key in contracts.split()} == set(CONTRACTS)


@pytest.mark.parametrize(
    ("module", "line", "contracts"), BREACHES, ids=lambda value: str(value).split("\n")[0]
)
def test_a_planted_import_breaks_its_contract(tmp_path: Path, module: str, line: str, contracts: str) -> None:
    plant(skeleton(tmp_path), module, line)
    assert broken(tmp_path) == set(contracts.split())


def test_the_allowed_directions_keep_every_contract(tmp_path: Path) -> None:
    skeleton(tmp_path)
    plant(tmp_path, "crucible_ir.record", "import pydantic")
    plant(tmp_path, "crucible_train.loss", "import numpy, crucible_ir")
    plant(tmp_path, "crucible_torch.engine", "import torch, transformers, peft, crucible_train")
    plant(tmp_path, "crucible_kitchen.adapters.hub", "import datasets, huggingface_hub, transformers")
    plant(tmp_path, "crucible_kitchen.run", "import crucible_kitchen.adapters.hub, crucible_torch")
    plant(tmp_path, "crucible_cookbook.recipe", "import crucible_kitchen.run, crucible_tiny")
    plant(tmp_path, "crucible_testing.suite", "import crucible_kitchen.run")
    assert broken(tmp_path) == set()


def test_the_contracts_cover_every_package_of_the_workspace() -> None:
    packages = {path.parent.name for path in ROOT.glob("packages/*/src/*/__init__.py")}
    assert packages == set(SETTINGS["root_packages"])


# --- what a package imports, it declares -------------------------------------------------------------------

PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
DISTRIBUTIONS = {
    "google": "protobuf",
    "huggingface_hub": "huggingface-hub",
    "opentelemetry": "opentelemetry-api",
    "yaml": "pyyaml",
}
# Module: the dependency that brings it and speaks of it in its own interface.
PROVIDED = {
    "tokenizers": "transformers",
    "click": "typer",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
}


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports absolutely, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names)


def declared(package: Path) -> set[str]:
    """The normalised names of all requirements of a package, extras included."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    lines = [*project.get("dependencies", []), *chain(*project.get("optional-dependencies", {}).values())]
    names = {line.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip() for line in lines}
    return {name.replace("_", "-").lower() for name in names}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_imports_only_what_it_declares(package: Path) -> None:
    own = {path.parent.name for path in package.glob("src/*/__init__.py")}
    known = declared(package)
    undeclared = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted(package.glob("src/**/*.py"))
        for name in imported(path) - own
        if DISTRIBUTIONS.get(name, name.replace("_", "-")) not in known and PROVIDED.get(name) not in known
    }
    assert undeclared == set()


def test_crucible_ir_imports_pydantic_and_the_standard_library_alone() -> None:
    names = set().union(*(imported(path) for path in ROOT.glob("packages/crucible_ir/src/**/*.py")))
    assert names <= {"crucible_ir", "pydantic", "pydantic_core"}
