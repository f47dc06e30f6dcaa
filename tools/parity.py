"""The live comparison with tinker-cookbook: its environment, its versions, its tests.

    python tools/parity.py run [PYTEST ARGUMENTS]   install the group `parity` beside our wheels, run tests/parity
    python tools/parity.py pins                     write tests/parity/requirements.txt
    python tools/parity.py check                    compare that file with the group and the workspace's pins; offline

The group stands in tests/parity/pyproject.toml, outside the workspace, so that what tinker-cookbook asks for decides
nobody else's versions. Where both need a package, the workspace's pin holds for both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from isolation import Bench, packages, siblings
from isolation import run as command
from pins import (
    ROOT,
    Pin,
    PinsError,
    pins_of_block,
    pins_of_lines,
    read_toml,
    requirement_lines,
    uv,
    uv_binary,
)

FOLDER = Path("tests") / "parity"
OURS = ("crucible-train", "crucible-kitchen[math]", "crucible-cookbook", "crucible-testing[tokenizers]")
TOOLS = ("hypothesis", "pytest", "pytest-timeout")
HEADER = """\
# Written by `python tools/parity.py pins`; do not edit. What tests/parity/pyproject.toml asks for, under the
# pins of the root pyproject.toml.
"""


def group(root: Path) -> list[Requirement]:
    """What the group `parity` asks for."""
    return [
        Requirement(line)
        for line in read_toml(root / FOLDER / "pyproject.toml")["dependency-groups"]["parity"]
    ]


def overrides(root: Path) -> list[str]:
    """Versions that stand in place of what a package asks for."""
    found: list[str] = read_toml(root / FOLDER / "pyproject.toml")["tool"]["uv"]["override-dependencies"]
    return found


def write(root: Path) -> list[Pin]:
    """Resolve the group under the workspace's pins and write its requirements file."""
    newest = read_toml(root / "pyproject.toml")["tool"]["uv"]["exclude-newer"]
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder)
        shutil.copyfile(root / FOLDER / "pyproject.toml", space / "pyproject.toml")
        (space / "pins.txt").write_text("\n".join(map(str, pins_of_block(root))), encoding="utf-8")
        found = uv(
            *("pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--group", "parity"),
            *("--exclude-newer", newest, "--constraints", "pins.txt"),
            cwd=space,
        )
    (root / FOLDER / "requirements.txt").write_text(HEADER + found, encoding="utf-8")
    return pins_of_lines([line for line, _ in requirement_lines(found)])


def problems(root: Path) -> Iterator[str]:
    """What is wrong between the group, its requirements file and the workspace's pins; offline."""
    path = root / FOLDER / "requirements.txt"
    text = path.read_text(encoding="utf-8")
    if "://" in text or any(line.startswith("-") for line in text.splitlines()):
        yield f"{FOLDER}/requirements.txt: names an address or an option"
        return
    entries = requirement_lines(text)
    yield from (f"{FOLDER}/requirements.txt: {line} has no hash" for line, hashes in entries if not hashes)
    found = {pin.name: pin for pin in pins_of_lines([line for line, _ in entries])}
    for requirement in group(root):
        pin = found.get(canonicalize_name(requirement.name))
        if [one.operator for one in requirement.specifier] != ["=="]:
            yield f"{FOLDER}/pyproject.toml: {requirement} is no exact version"
        elif pin is None or not requirement.specifier.contains(pin.version):
            yield f"{FOLDER}/requirements.txt: {requirement} is pinned as {pin}"
    for pin in pins_of_block(root):
        other = found.get(pin.name)
        if other is not None and other.version != pin.version:
            yield f"{FOLDER}/requirements.txt: {other.name} {other.version}, and the workspace has {pin.version}"


def environment(bench: Bench, ours: tuple[str, ...] = OURS) -> Path:
    """The Python of a new environment with the group, our wheels and what tests need, all of it pinned."""
    bench.build(set().union(*(siblings(Requirement(line), bench.known) for line in ours)))
    place = bench.folder / "env"
    command(uv_binary(), "venv", "--quiet", "--python", sys.executable, place, cwd=bench.folder)
    python = place / "bin" / "python"
    override = bench.folder / "override.txt"
    override.write_text("\n".join(overrides(ROOT)), encoding="utf-8")
    constraints = bench.folder / "pins.txt"
    theirs = (ROOT / FOLDER / "requirements.txt").read_text(encoding="utf-8")
    pins = {line for line, _ in requirement_lines(theirs)} | set(map(str, pins_of_block(ROOT)))
    constraints.write_text("\n".join(sorted(pins)), encoding="utf-8")
    command(
        *(uv_binary(), "pip", "install", "--quiet", "--no-config", "--python", python),
        *(f"--find-links={folder}" for folder in [bench.wheels, *link_folders()]),
        *(f"--refresh-package={name}" for name in bench.known),
        *("--constraints", constraints, "--override", override),
        *(*map(str, group(ROOT)), *ours, *TOOLS),
        cwd=bench.folder,
    )
    return python


def link_folders() -> list[str]:
    """Folders of wheels that uv, or else pip, is told to look into."""
    told = os.environ.get("UV_FIND_LINKS", "").replace(",", " ") or os.environ.get("PIP_FIND_LINKS", "")
    return told.split()


def compare(python: Path, arguments: list[str]) -> int:
    """Run tests/parity with `python`; returns pytest's status.

    Its files are called compare_*.py and its fixtures are a plugin, so that no other run collects them.
    """
    settings = [f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    options = [*settings, "-p", "parity_plugin", "-o", "python_files=compare_*.py", "--show-capture=no"]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / FOLDER),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    chosen = arguments if any("compare_" in word for word in arguments) else [*arguments, str(ROOT / FOLDER)]
    return subprocess.run(
        [python, "-P", "-m", "pytest", "-q", *options, *chosen], cwd=ROOT, env=env, check=False
    ).returncode


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["run", "pins", "check"])
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.job == "run":
            with tempfile.TemporaryDirectory(prefix="crucible-parity-") as folder:
                return compare(environment(Bench(folder=Path(folder), known=packages())), rest)
        if options.job == "pins":
            print(f"{len(write(ROOT))} versions written")
        found = list(problems(ROOT))
    except (subprocess.CalledProcessError, PinsError) as error:
        found = [str(error)]
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
