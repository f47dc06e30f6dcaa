"""Where the floor's scripts and the peer's environment are, and how they are brought."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.contest import Contestant, Failure

__all__ = [
    "FLOOR_VARIABLE",
    "PEER",
    "ROOT",
    "floor",
    "floor_folder",
    "install_peer",
    "ours",
    "peer",
    "peer_python",
]

ROOT = Path(__file__).resolve().parent.parent
FLOOR_VARIABLE = "CRUCIBLE_BENCH"
PEER = ROOT / ".bootstrap" / "peer-trl"
_PEER_PACKAGES = (
    "torch==2.13.0",
    "trl==1.16.0",
    "peft==0.21.2",
    "transformers==5.23.0",
    "datasets==5.2.0",
    "accelerate==1.15.0",
    "jinja2",
    "psutil",
)


def floor_folder() -> Path:
    """The folder of the floor's and the peer's scripts: $CRUCIBLE_BENCH, or ../shared/bench beside the checkout.

    Raises:
        Failure: there is none.
    """
    folder = Path(os.environ.get(FLOOR_VARIABLE) or ROOT.parent / "shared" / "bench")
    if not (folder / "floor_sft.py").is_file():
        raise Failure(f"there are no floor scripts in {folder}; name their folder in {FLOOR_VARIABLE}")
    return folder.resolve()


def peer_python() -> Path | None:
    """The interpreter of the peer's environment, if it was made."""
    python = PEER / "bin" / "python"
    return python if python.exists() else None


def ours(module: str, *arguments: str, name: str = "ours") -> Contestant:
    """A module of this folder as a contestant."""
    return Contestant(name=name, command=(sys.executable, "-m", module, "ours", *arguments), folder=ROOT)


def floor(script: str, *arguments: str) -> Contestant:
    """A script of the floor, run by our interpreter (the same torch)."""
    return Contestant(name="floor", command=(sys.executable, script, *arguments), folder=floor_folder())


def peer(script: str, *arguments: str) -> tuple[Contestant, ...]:
    """A script of the peer in the peer's environment; empty where that was not made."""
    python = peer_python()
    if python is None:
        return ()
    return (Contestant(name="TRL", command=(str(python), script, *arguments), folder=floor_folder()),)


def install_peer() -> Path:
    """Make the peer's environment; the torch wheel comes from $PIP_FIND_LINKS where that has one.

    Raises:
        Failure: uv is not at hand, or a package cannot be installed.
    """
    uv = (
        os.environ.get("UV")
        or shutil.which("uv")
        or next(map(str, ROOT.glob(".bootstrap/uv-*/bin/uv")), None)
    )
    if uv is None:
        raise Failure("uv is not at hand; run `make sync` first")
    links = os.environ.get("UV_FIND_LINKS") or ",".join(os.environ.get("PIP_FIND_LINKS", "").split())
    environment = {**os.environ, "UV_SYSTEM_CERTS": "true", **({"UV_FIND_LINKS": links} if links else {})}
    for command in (
        [uv, "venv", "--clear", "--python", sys.executable, str(PEER)],
        [uv, "pip", "install", "--python", str(PEER / "bin" / "python"), *_PEER_PACKAGES],
    ):
        if subprocess.run(command, env=environment, check=False).returncode:
            raise Failure(f"failed: {' '.join(command)}")
    return PEER
