"""Exact versions for everybody without a committed `uv.lock`: writes and checks the pins.

Three things say which third-party versions this workspace uses, and this tool keeps them one:

* the block between `# pins: begin` and `# pins: end` in the root `pyproject.toml` (uv obeys it there),
* `requirements.lock.txt` (the same versions with the hash of every file, for review and `--require-hashes`),
* `uv.lock`, which names download addresses, is ignored by git and is derived on each machine.

    python tools/pins.py write      resolve from nothing and write the block and requirements.lock.txt
    python tools/pins.py check      compare all three, offline, in less than a second
    python tools/pins.py reproduce  resolve and install twice from nothing and compare with the pins
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "# pins: begin", "# pins: end"
BLOCK = re.compile(rf"^{BEGIN}\n.*?^{END}$", re.MULTILINE | re.DOTALL)
BUILD_TOOLS = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
ABSOLUTE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
HEADER = """\
# Written by `python tools/pins.py write`; do not edit. The same versions stand in the root pyproject.toml.
# Install with hashes checked: pip install --require-hashes -r requirements.lock.txt
"""


class PinsError(Exception):
    """A resolution that cannot be written down as pins; the message says what and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One exact version of one package, valid where `marker` holds (everywhere when it is empty)."""

    name: str
    version: str
    marker: str = ""

    def __str__(self) -> str:
        """The pin as a requirement line."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


def normalised(marker: Marker | str | None) -> str:
    """A marker in the one spelling that `packaging` gives it, with single quotes as uv writes them."""
    return "" if not marker else str(Marker(str(marker))).replace('"', "'")


# --- reading -----------------------------------------------------------------------------------------------


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed TOML file at `path`."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def pyprojects(root: Path) -> list[Path]:
    """The workspace's pyproject files: the root's first, then each package's."""
    return [root / "pyproject.toml", *sorted((root / "packages").glob("*/pyproject.toml"))]


def pins_of_lines(lines: list[str]) -> list[Pin]:
    """Pins from `name==version ; marker` lines; raises `PinsError` for any other form."""
    pins = []
    for line in lines:
        requirement = Requirement(line)
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
            raise PinsError(f"'{line}' is not an exact pin (name==version)")
        name = canonicalize_name(requirement.name)
        pins.append(Pin(name=name, version=specifiers[0].version, marker=normalised(requirement.marker)))
    return pins


def pins_of_block(root: Path) -> list[Pin]:
    """The pins that stand in the root pyproject."""
    uv = read_toml(root / "pyproject.toml")["tool"]["uv"]
    return pins_of_lines(list(uv.get("constraint-dependencies", [])))


def requirement_lines(text: str) -> list[tuple[str, int]]:
    """(requirement, number of hashes) for each entry of a requirements file."""
    entries = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            entries.append((requirement.strip(), len(hashes)))
    return entries


def declared(root: Path) -> Iterator[tuple[Path, Requirement]]:
    """Every requirement that the workspace declares: core, extras, groups and build."""
    for path in pyprojects(root):
        data = read_toml(path)
        project = data.get("project", {})
        lines = [*project.get("dependencies", []), *data.get("build-system", {}).get("requires", [])]
        for extra in project.get("optional-dependencies", {}).values():
            lines += extra
        for group in data.get("dependency-groups", {}).values():
            lines += [entry for entry in group if isinstance(entry, str)]
        for line in lines:
            yield path.relative_to(root), Requirement(line)


def members(root: Path) -> set[str]:
    """The normalised names of the workspace's own distributions."""
    return {canonicalize_name(read_toml(path)["project"]["name"]) for path in pyprojects(root)}


# --- resolving ---------------------------------------------------------------------------------------------


def uv_binary() -> str:
    """The uv to call: $UV, then the bootstrapped one, then the environment's, then the PATH's."""
    beside = [*ROOT.glob(".bootstrap/*/bin/uv"), Path(sys.executable).parent / "uv"]
    found = os.environ.get("UV") or next((str(p) for p in beside if p.exists()), None) or shutil.which("uv")
    if not found:
        raise PinsError("uv is not here; `make sync` brings it, or set UV to its path")
    return found


def uv(*arguments: str, cwd: Path, **env: str) -> str:
    """uv's output, run without find-links so that no local wheel leaves a trace in what is written."""
    clean = {k: v for k, v in os.environ.items() if k not in {"UV_FIND_LINKS", "VIRTUAL_ENV", "UV_FROZEN"}}
    done = subprocess.run(
        [uv_binary(), *arguments], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PinsError(f"uv {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout


def copy_of_workspace(root: Path, target: Path) -> Path:
    """The files that resolution reads, and nothing else, copied to `target`."""
    for path in pyprojects(root):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return target


def export(workspace: Path, *options: str) -> str:
    """The whole resolution (all packages, extras and groups) in requirements form."""
    everything = ("--all-packages", "--all-extras", "--all-groups", "--no-emit-workspace")
    return uv("export", "--frozen", "--no-header", "--no-annotate", *everything, *options, cwd=workspace)


def pins_of_export(text: str) -> list[Pin]:
    """Pins of an export; a marker stays only where a name has several versions."""
    pins = pins_of_lines([line for line, _ in requirement_lines(text)])
    local = [str(p) for p in pins if "+" in p.version]
    if local:
        raise PinsError(f"local builds cannot be pinned for everybody: {', '.join(local)}; unset find-links")
    several = {p.name for p in pins if sum(q.name == p.name for q in pins) > 1}
    kept = (p if p.name in several else Pin(name=p.name, version=p.version) for p in pins)
    return sorted(kept, key=lambda p: (p.name, Version(p.version)))


def block_of(pins: list[Pin]) -> str:
    """The text between and including the two marks of the root pyproject."""

    def array(key: str, chosen: list[Pin]) -> list[str]:
        return [f"{key} = [", *(f'  "{pin}",' for pin in chosen), "]"]

    build = [p for p in pins if p.name in BUILD_TOOLS]
    lines = [
        BEGIN,
        *array("constraint-dependencies", pins),
        *array("build-constraint-dependencies", build),
        END,
    ]
    return "\n".join(lines)


def with_block(text: str, block: str) -> str:
    """`text` of a pyproject with its pins block replaced."""
    if len(BLOCK.findall(text)) != 1:
        raise PinsError(f"pyproject.toml must have exactly one block from '{BEGIN}' to '{END}'")
    return BLOCK.sub(lambda _: block, text)


def write(root: Path, keep: list[str]) -> list[Pin]:
    """Resolve from nothing but the pins in `keep`; write the block and the requirements file."""
    pyproject = root / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        space = copy_of_workspace(root, Path(folder))
        wanted = block_of(pins_of_lines(keep))
        (space / "pyproject.toml").write_text(with_block(text, wanted), encoding="utf-8")
        uv("lock", cwd=space)
        pins = pins_of_export(export(space, "--no-hashes"))
        written = with_block(text, block_of(pins))
        (space / "pyproject.toml").write_text(written, encoding="utf-8")
        (space / "uv.lock").unlink()
        uv("lock", cwd=space)
        if pins_of_export(export(space, "--no-hashes")) != pins:
            raise PinsError("the resolution under the pins differs from the one they were taken from")
        requirements = HEADER + export(space)
    pyproject.write_text(written, encoding="utf-8")
    (root / "requirements.lock.txt").write_text(requirements, encoding="utf-8")
    (root / "uv.lock").unlink(missing_ok=True)
    return pins


# --- checking ----------------------------------------------------------------------------------------------


def problems_of_settings(root: Path) -> Iterator[str]:
    """What the root's settings must have so that everybody resolves the same."""
    if (root / "uv.toml").exists():
        yield "uv.toml: beside it uv ignores the settings in [tool.uv], exclude-newer among them; remove it"
    newest = read_toml(root / "pyproject.toml")["tool"]["uv"].get("exclude-newer")
    if not (isinstance(newest, str) and ABSOLUTE_TIME.fullmatch(newest)):
        yield f"pyproject.toml: exclude-newer is {newest!r}; it must be absolute (YYYY-MM-DDThh:mm:ssZ)"
    ignored = root / ".gitignore"
    if not ignored.exists() or "uv.lock" not in ignored.read_text(encoding="utf-8").split():
        yield ".gitignore: uv.lock names download addresses and must be ignored"


def problems_of_block(root: Path, pins: list[Pin]) -> Iterator[str]:
    """What is wrong between the block and what the packages declare."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = BLOCK.search(text)
    if not found or found.group() != block_of(sorted(pins, key=lambda p: (p.name, Version(p.version)))):
        yield "pyproject.toml: the pins block was edited by hand"
    ours, by_name = members(root), {p.name: [q for q in pins if q.name == p.name] for p in pins}
    for path, requirement in declared(root):
        name = canonicalize_name(requirement.name)
        if name in ours:
            continue
        for pin in by_name.get(name, []):
            if not requirement.specifier.contains(pin.version, prereleases=True):
                yield f"{path}: {requirement} does not admit the pinned {pin.version}"
        if name not in by_name:
            yield f"{path}: {requirement} has no pin"
    makefile = root / "Makefile"
    stated = re.search(r"^UV_VERSION := (\S+)$", makefile.read_text(), re.M) if makefile.exists() else None
    if stated and "uv" in by_name and by_name["uv"][0].version != stated.group(1):
        yield f"Makefile: UV_VERSION {stated.group(1)} is not the pinned uv {by_name['uv'][0].version}"


def problems_of_requirements(root: Path, pins: list[Pin]) -> Iterator[str]:
    """What is wrong between the block and requirements.lock.txt."""
    path = root / "requirements.lock.txt"
    if not path.exists():
        yield "requirements.lock.txt: missing"
        return
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if "://" in line or re.match(r"\s*--(?!hash=)", line):
            yield f"requirements.lock.txt:{number}: names an address or an option: {line.strip()}"
            return
    entries = requirement_lines(text)
    for line, hashes in entries:
        if not hashes:
            yield f"requirements.lock.txt: {line} has no hash"
    listed = {str(p) for p in pins_of_export("\n".join(line for line, _ in entries))}
    for extra in sorted(listed ^ {str(p) for p in pins}):
        where = "requirements.lock.txt" if extra in listed else "the pins block"
        yield f"requirements.lock.txt: {extra} stands in {where} only"


def problems_of_lock(root: Path, pins: list[Pin]) -> Iterator[str]:
    """What is wrong with the derived uv.lock, where there is one."""
    path = root / "uv.lock"
    if not path.exists():
        return
    lock = read_toml(path)
    newest = read_toml(root / "pyproject.toml")["tool"]["uv"].get("exclude-newer")
    if lock.get("options", {}).get("exclude-newer") != newest:
        yield "uv.lock: stale, made under another exclude-newer; delete it"
    constraints = {f"{c['name']}{c['specifier']}" for c in lock.get("manifest", {}).get("constraints", [])}
    if constraints != {f"{p.name}=={p.version}" for p in pins}:
        yield "uv.lock: stale, made under other pins; delete it"
    pinned = {(p.name, p.version) for p in pins}
    for package in lock.get("package", []):
        key = (package["name"], package.get("version", "").partition("+")[0])
        if "registry" in package["source"] and key not in pinned:
            yield f"uv.lock: {key[0]} {key[1]} is not pinned"


def check(root: Path) -> list[str]:
    """All problems of the pins under `root`, each with its file and reason; empty when all agree."""
    try:
        pins = pins_of_block(root)
        return [
            *problems_of_settings(root),
            *problems_of_block(root, pins),
            *problems_of_requirements(root, pins),
            *problems_of_lock(root, pins),
        ]
    except PinsError as error:
        return [f"pyproject.toml: {error}"]


# --- reproducing -------------------------------------------------------------------------------------------


def resolved(root: Path) -> list[Pin]:
    """The pins of a resolution that starts from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        space = copy_of_workspace(root, Path(folder))
        uv("lock", cwd=space)
        return pins_of_export(export(space, "--no-hashes"))


def installed(root: Path) -> list[str]:
    """What `uv sync` installs from nothing on this machine, its find-links heeded, local labels dropped."""
    links = {key: value for key in ("UV_FIND_LINKS",) if (value := os.environ.get(key))}
    with tempfile.TemporaryDirectory() as folder:
        space = copy_of_workspace(root, Path(folder))
        uv("sync", "--all-packages", "--no-install-workspace", cwd=space, **links)
        return uv("pip", "freeze", "--python", str(space / ".venv"), cwd=space).splitlines()


def reproduce(root: Path, *, install: bool) -> list[str]:
    """Differences between two resolutions and installations from nothing, and between them and the pins."""
    pins = pins_of_block(root)
    problems = []
    if resolved(root) != pins:
        problems.append("a resolution from nothing is not what is pinned; run `python tools/pins.py write`")
    if install:
        first, second = installed(root), installed(root)
        problems += [f"only one of two installations holds {line}" for line in sorted({*first} ^ {*second})]
        pinned = {f"{pin.name}=={pin.version}" for pin in pins}
        problems += [f"{line} was installed and is not pinned" for line in first if plain(line) not in pinned]
    return problems


def plain(line: str) -> str:
    """A line of `uv pip freeze` without the label of a local build."""
    return line.partition("+")[0]


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    writer = verbs.add_parser("write", help="resolve anew and write the pins")
    writer.add_argument("--keep", action="append", default=[], metavar="NAME", help="keep NAME's version")
    writer.add_argument("--keep-all", action="store_true", help="keep all versions, add what is new")
    verbs.add_parser("check", help="compare the pins with everything that must agree with them")
    again = verbs.add_parser("reproduce", help="resolve and install twice from nothing")
    again.add_argument("--no-install", action="store_true", help="resolve only")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "write":
            kept = [
                str(p) for p in pins_of_block(ROOT) if options.keep_all or p.name in ["torch", *options.keep]
            ]
            print(f"{len(write(ROOT, kept))} pins written")
            return 0
        problems = check(ROOT) if options.verb == "check" else reproduce(ROOT, install=not options.no_install)
    except PinsError as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"pins: {options.verb} passed ({len(pins_of_block(ROOT))} versions)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
