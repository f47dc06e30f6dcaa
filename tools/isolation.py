"""Wheels outside the workspace: what each one brings, whether it imports, and its tests on that alone.

    python tools/isolation.py wheels            every wheel, alone: what it brings, import, `crucible --help`
    python tools/isolation.py tests NAME        NAME's tests where only what NAME declares is installed
    python tools/isolation.py lowest [NAME ...] the same with the lowest versions that NAME declares

The environment is made anew by each call, from wheels built by that call: uv would take a cached wheel of the
same version from a --find-links folder, so ours are refreshed, and the workspace's pins would void the floors,
so nothing here runs inside the workspace.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pins import ROOT, PinsError, pins_of_block, uv_binary

TEST_TOOLS = ("pytest", "pytest-timeout", "pytest-xdist")
FIXTURES = {"shared_data", "rng"}
HEAVY = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One distribution of the workspace, as its pyproject declares it."""

    name: str
    folder: Path
    core: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]] = field(default_factory=dict)
    tests: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The import name."""
        return self.name.replace("-", "_")

    @property
    def everything(self) -> str:
        """The requirement of this package with all its extras."""
        return f"{self.name}[{','.join(self.extras)}]" if self.extras else self.name


def packages() -> dict[str, Package]:
    """The workspace's packages by distribution name."""
    found = {}
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        project = data["project"]
        extras = project.get("optional-dependencies", {})
        found[project["name"]] = Package(
            name=project["name"],
            folder=path.parent,
            core=tuple(map(Requirement, project.get("dependencies", []))),
            extras={key: tuple(map(Requirement, lines)) for key, lines in extras.items()},
            tests=tuple(data.get("dependency-groups", {}).get("test", ())),
        )
    return found


def siblings(requirement: Requirement, known: dict[str, Package]) -> set[str]:
    """The workspace packages that `requirement` brings, itself included, by what they declare."""
    package = known.get(canonicalize_name(requirement.name))
    if package is None:
        return set()
    reached = {package.name}
    wanted = [*package.core, *(r for extra in requirement.extras for r in package.extras[extra])]
    return reached.union(*(siblings(r, known) for r in wanted))


def is_heavy(requirement: Requirement, known: dict[str, Package]) -> bool:
    """Whether installing `requirement` brings torch."""
    package = known.get(canonicalize_name(requirement.name))
    if package is None:
        return requirement.name == HEAVY
    wanted = [*package.core, *(r for extra in requirement.extras for r in package.extras[extra])]
    return any(is_heavy(r, known) for r in wanted)


# --- what the tests need -----------------------------------------------------------------------------------


def names_in_tests(package: Package) -> set[str]:
    """Top-level modules that the tests import, and the arguments (fixtures) that their functions take."""
    names: set[str] = set()
    for path in package.folder.glob("tests/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module.partition(".")[0], node.module}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names |= {argument.arg for argument in node.args.args}
    return names


def test_tools(package: Package) -> list[str]:
    """What the tests add to the package: pytest, its group `test`, and what they use of the dev group."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dev = [Requirement(line) for line in data["dependency-groups"]["dev"]]
    used = names_in_tests(package)
    chosen = [r.name for r in dev if r.name in TEST_TOOLS or r.name.replace("-", "_") in used]
    suites = packages()["crucible-testing"]
    if used & FIXTURES and suites.name not in chosen:
        chosen.append(suites.name)
    extras = [extra for extra in suites.extras if f"{suites.module}.{extra.replace('-', '_')}" in used]
    chosen += [f"{suites.name}[{extra}]" for extra in extras]
    return [*chosen, *package.tests]


# --- environments ------------------------------------------------------------------------------------------


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """The command's output; raises `CalledProcessError` after showing what it wrote."""
    clean = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH", "UV_CONSTRAINT"}}
    done = subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, [str(part) for part in command])
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder outside the workspace with freshly built wheels, where environments are made."""

    folder: Path
    known: dict[str, Package]

    @property
    def wheels(self) -> Path:
        """Where the built wheels lie."""
        return self.folder / "wheels"

    def build(self, names: set[str]) -> None:
        """Builds the wheels of the named packages."""
        for name in sorted(names):
            source = self.known[name].folder
            run(uv_binary(), "build", "--quiet", "--wheel", "--out-dir", self.wheels, source, cwd=self.folder)

    def environment(self, requirements: list[str], *options: str, pinned: bool = True) -> Path:
        """The Python of a new environment that holds `requirements`; third-party versions are the pins."""
        place = Path(tempfile.mkdtemp(prefix="env-", dir=self.folder))
        uv = uv_binary()
        run(uv, "venv", "--quiet", "--python", sys.executable, place, cwd=self.folder)
        python = place / "bin" / "python"
        constraints = self.folder / "pins.txt"
        constraints.write_text("\n".join(map(str, pins_of_block(ROOT))) if pinned else "", encoding="utf-8")
        folders = [str(self.wheels), *filter(None, os.environ.get("UV_FIND_LINKS", "").split(","))]
        options = (
            *("--quiet", "--no-config", "--python", str(python), "--constraints", str(constraints)),
            *(f"--find-links={folder}" for folder in folders),
            *(f"--refresh-package={name}" for name in self.known),
            *options,
        )
        run(uv, "pip", "install", *options, *requirements, cwd=self.folder)
        run(uv, "pip", "check", "--quiet", "--python", python, cwd=self.folder)
        return python

    def contents(self, python: Path) -> set[str]:
        """The names of what an environment holds."""
        lines = run(uv_binary(), "pip", "freeze", "--python", python, cwd=self.folder).splitlines()
        return {canonicalize_name(re.split(r"==| @ ", line)[0]) for line in lines}

    def pytest(self, python: Path, package: Package) -> int:
        """Runs the package's tests with `python`; returns pytest's status (no tests is a pass)."""
        settings = ROOT / "pyproject.toml"
        command = [str(python), "-P", "-m", "pytest", f"--config-file={settings}", f"--rootdir={ROOT}"]
        options = ["-p", "no:cacheprovider", "-q", *shlex.split(os.environ.get("PYTEST_ISOLATION_ARGS", ""))]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
        env.pop("PYTHONPATH", None)
        done = subprocess.run(
            [*command, *options, str(package.folder / "tests")], cwd=self.folder, env=env, check=False
        )
        return 0 if done.returncode == 5 else done.returncode


# --- the three jobs ----------------------------------------------------------------------------------------


def tests(bench: Bench, name: str) -> Iterator[str]:
    """Problems of `name`'s tests in an environment with its declared dependencies and extras."""
    package = bench.known[name]
    wanted = [package.everything, *test_tools(package)]
    bench.build(set().union(*(siblings(Requirement(line), bench.known) for line in wanted)))
    python = bench.environment(wanted)
    if bench.pytest(python, package):
        yield f"{name}: its tests fail where only what it declares is installed"


def wheels(bench: Bench) -> Iterator[str]:
    """Problems of the wheels, each installed alone: what it brings, its import, the command line."""
    bench.build(set(bench.known))
    for package in bench.known.values():
        python = bench.environment([package.name])
        held = bench.contents(python)
        ours = {name for name in held if name in bench.known}
        print(f"{package.name}: brings {', '.join(sorted(held - {package.name})) or 'nothing'}")
        if ours != siblings(Requirement(package.name), bench.known):
            yield f"{package.name}: brings {sorted(ours)}, which is not what it declares"
        if not package.core and len(held) > 1:
            yield f"{package.name}: declares nothing and brings {sorted(held)}"
        code = f"import {package.module}"
        run(python, "-P", "-c", code, cwd=bench.folder)
        if (python.parent / "crucible").exists():
            run(python.parent / "crucible", "--help", cwd=bench.folder)
        elif package.name == "crucible-kitchen":
            yield "crucible-kitchen: brings no `crucible` command"
        shutil.rmtree(python.parent.parent)


def lowest(bench: Bench, names: list[str]) -> Iterator[str]:
    """Problems of the tests under the lowest versions that each package declares."""
    for name in names or list(bench.known):
        package = bench.known[name]
        if not names and any(
            is_heavy(Requirement(r), bench.known) for r in [package.everything, *package.tests]
        ):
            print(f"not run: the floors of {name} (they bring a torch of several GB; name it to run it)")
            continue
        tools = test_tools(package)
        versions = {pin.name: pin.version for pin in pins_of_block(ROOT)}
        outside = {canonicalize_name(Requirement(tool).name) for tool in tools} - set(bench.known)
        exact = [f"{tool}=={versions[tool]}" for tool in sorted(outside)]
        ours = {package.everything, *(tool for tool in tools if Requirement(tool).name in bench.known)}
        bench.build(set().union(*(siblings(Requirement(line), bench.known) for line in ours)))
        direct = [r for r in package.core if canonicalize_name(r.name) not in bench.known]
        direct += [r for extra in package.extras.values() for r in extra if r.name not in bench.known]
        floors = [str(requirement) for requirement in direct]
        python = bench.environment([*ours, *floors, *exact], "--resolution", "lowest-direct", pinned=False)
        if bench.pytest(python, package):
            yield f"{name}: its tests fail under the lowest versions that it declares"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["wheels", "tests", "lowest"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args(arguments)
    options.names = [name.removeprefix("py-") for name in options.names]  # tox's name of an environment
    known = packages()
    unknown = sorted(set(options.names) - set(known))
    if unknown or (options.job == "tests" and len(options.names) != 1):
        parser.error(f"name one of {', '.join(known)}; got {', '.join(options.names) or 'none'}")
    with tempfile.TemporaryDirectory(prefix="crucible-isolation-") as folder:
        bench = Bench(folder=Path(folder), known=known)
        try:
            jobs = {"wheels": lambda: wheels(bench), "tests": lambda: tests(bench, options.names[0])}
            problems = list(jobs.get(options.job, lambda: lowest(bench, options.names))())
        except (subprocess.CalledProcessError, PinsError) as error:
            problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"isolation: {options.job} {' '.join(options.names)} {'failed' if problems else 'passed'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
