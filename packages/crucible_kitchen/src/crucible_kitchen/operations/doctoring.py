"""The doctor: what is in order on this machine and what is not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path

from crucible_ir import CrucibleError
from crucible_kitchen.manifests.credentials import credential_names
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.catalog_models import Check, DoctorReport, OneManifest
from crucible_kitchen.operations.service import Service
from crucible_kitchen.plugins.discovery import discover
from crucible_kitchen.plugins.groups import COMMANDS, PORTS, RECIPES, STAGES, WORKFLOWS
from crucible_kitchen.plugins.loading import load_adapter

__all__ = ["doctor"]

_LEAST_FREE_BYTES = 1 << 30
_OLDEST_PYTHON = (3, 11)
_TORCH_LIMIT_S = 120.0


def doctor(service: Service, request: OneManifest) -> DoctorReport:
    """Look at Python, packages, torch, disk, home, adapters and credentials (names alone)."""
    checks = [
        _python(),
        _packages(),
        _torch(service.environ),
        _home(service.home.root),
        _disk(service.home.root),
        _names(),
        *_adapters(service, request.manifest),
        _credentials(service),
        _runs(service),
    ]
    return DoctorReport(ok=all(check.ok for check in checks), checks=tuple(checks))


def _python() -> Check:
    ok = sys.version_info >= _OLDEST_PYTHON
    return Check(
        name="python",
        ok=ok,
        detail=f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        remedy="" if ok else "install Python 3.11 or newer",
    )


def _packages() -> Check:
    found = {d.name: d.version for d in distributions() if d.name.replace("_", "-").startswith("crucible-")}
    return Check(
        name="packages", ok=True, detail=", ".join(f"{name} {found[name]}" for name in sorted(found))
    )


_TORCH = """
import torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{torch.__version__}, {torch.get_num_threads()} threads, {gpu}")
"""


def _torch(environ: Mapping[str, str]) -> Check:
    """Asked in a process of its own, so that a broken installation cannot take the doctor with it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=_TORCH_LIMIT_S,
            check=False,
        )
        ok, told = done.returncode == 0, (done.stdout.strip() or done.stderr.strip() or str(done.returncode))
    except subprocess.TimeoutExpired:
        ok, told = False, f"no answer within {_TORCH_LIMIT_S} s"
    return Check(
        name="torch",
        ok=ok,
        detail=told.splitlines()[-1],
        remedy="" if ok else "install crucible-kitchen[torch] for the local engine",
    )


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _home(root: Path) -> Check:
    in_the_way = next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None)
    try:
        if in_the_way is not None:
            raise NotADirectoryError(f"{in_the_way} is no folder")
        with tempfile.TemporaryFile(dir=_nearest_folder(root)):
            pass
    except OSError as error:
        return Check(
            name="home",
            ok=False,
            detail=f"{root} cannot be written ({error.strerror or error})",
            remedy="set CRUCIBLE_HOME to a folder that can be written",
        )
    return Check(name="home", ok=True, detail=f"{root} can be written")


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(_nearest_folder(root)).free
    ok = free >= _LEAST_FREE_BYTES
    return Check(
        name="disk",
        ok=ok,
        detail=f"{free / (1 << 30):.1f} GiB free at {root}",
        remedy="" if ok else "free space, or set CRUCIBLE_HOME to a folder on another disk",
    )


def _names() -> Check:
    groups = [COMMANDS, RECIPES, WORKFLOWS, STAGES, *(port.group for port in PORTS.values())]
    twice = []
    for group in groups:
        owners: dict[str, set[str]] = {}
        for plugin in discover(group):
            owners.setdefault(plugin.name, set()).add(plugin.package)
        twice += [
            f"{name} in {group} ({' and '.join(sorted(packages))})"
            for name, packages in owners.items()
            if len(packages) > 1
        ]
    return Check(
        name="plugins",
        ok=not twice,
        detail=f"owned twice: {'; '.join(twice)}"
        if twice
        else f"{len(groups)} groups, every name owned once",
        remedy="uninstall one of the packages" if twice else "",
    )


def _adapters(service: Service, manifest: str) -> list[Check]:
    name = f"manifest {manifest}"
    try:
        chosen = load_manifest(manifest)
        ManifestPorts(chosen, home=service.home.root, environ=service.environ).check()
    except CrucibleError as error:
        return [Check(name=name, ok=False, detail=_fault(error), remedy=error.remedy)]
    checks = []
    for port, choice in chosen.ports.items():
        try:
            plugin, _ = load_adapter(port, choice.adapter)
        except CrucibleError as error:
            checks.append(Check(name=f"{name}: {port}", ok=False, detail=_fault(error), remedy=error.remedy))
        else:
            detail = f"{choice.adapter} of {plugin.package} {version(plugin.package)}"
            checks.append(Check(name=f"{name}: {port}", ok=True, detail=detail))
    return checks


def _fault(error: CrucibleError) -> str:
    """The message without its remedy, which stands on a line of its own."""
    return str(error).removesuffix(f"; {error.remedy}")


def _credentials(service: Service) -> Check:
    names = credential_names(service.environ)
    return Check(name="credentials", ok=True, detail=", ".join(names) or "none set (none is needed offline)")


def _runs(service: Service) -> Check:
    try:
        listing = service.store.records()
    except OSError as error:
        return Check(name="runs", ok=False, detail=f"cannot be read ({error})", remedy="look at the home")
    damaged = [item.run_id for item in listing.damaged]
    return Check(
        name="runs",
        ok=not damaged,
        detail=f"{len(listing.records)} runs"
        + (f"; cannot be read: {', '.join(damaged)}" if damaged else ""),
        remedy="restore their events.jsonl from a copy, or delete their folders" if damaged else "",
    )
