"""Note the code and the packages that a run is made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from crucible_ir import digest_bytes, digest_of
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PROVENANCE

__all__ = ["CaptureEnvironment", "code_revision", "installed_packages"]

_GIT_S = 10


class CaptureEnvironment(Stage):
    """Note interpreter, packages, backend and code revision in the provenance.

    The list of packages is kept in ``environment.txt``, the uncommitted changes to tracked files in ``code.diff``.
    A resumed run keeps what it began with.
    """

    name = "capture_environment"
    reads = (PROVENANCE,)
    writes = (PROVENANCE,)
    optional_ports = ("training_backend",)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """A folder without git has no revision; a run that goes on from a checkpoint has it all."""
        if "environment" in ctx.get(PROVENANCE):
            return
        packages = installed_packages()
        write_lines(ctx.run_dir / "environment.txt", packages)
        revision, patch = code_revision(Path.cwd())
        if patch:
            write_lines(ctx.run_dir / "code.diff", ctx.redact(patch).splitlines())
        facts: dict[str, Any] = {
            "environment": {
                "digest": digest_of(packages),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": len(packages),
                "processes": ctx.processes,
            },
            "code": {"revision": revision, "patch": digest_bytes(patch.encode()) if patch else None},
        }
        if ctx.has_port("training_backend"):
            capabilities = ctx.port("training_backend").capabilities()
            facts["backend"] = {"name": capabilities.name, "deterministic": capabilities.deterministic}
        ctx.set(PROVENANCE, ctx.get(PROVENANCE) | facts)
        ctx.emit("environment.captured", facts)


def installed_packages() -> list[str]:
    """``name==version`` of every installed distribution, sorted."""
    found = {f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return sorted(found)


def code_revision(folder: Path) -> tuple[str | None, str]:
    """The commit that ``folder`` stands at and the uncommitted changes to tracked files; None outside of git."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None, ""
    return revision.strip(), _git(folder, "diff", "HEAD") or ""


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
