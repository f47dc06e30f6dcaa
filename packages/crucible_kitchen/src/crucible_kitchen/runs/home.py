"""The home folder: where runs, registry and blobs are kept."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HOME_VARIABLE", "Home", "is_run_id", "new_run_id"]

HOME_VARIABLE = "CRUCIBLE_HOME"
_RUN_ID = re.compile(r"run_\d+_[a-f0-9]{8}")


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of a run id: ``run_<unix seconds>_<8 hex digits>``."""
    return _RUN_ID.fullmatch(text) is not None


def new_run_id(clock: Callable[[], float], token: Callable[[int], str] = secrets.token_hex) -> str:
    """A fresh run id; ``clock`` gives unix seconds, ``token(n)`` gives 2n hex digits."""
    return f"run_{int(clock())}_{token(4)}"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home folder; nothing is made until something is written."""

    root: Path

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> Home:
        """``$CRUCIBLE_HOME``, else ``~/.crucible``."""
        chosen = environ.get(HOME_VARIABLE)
        return cls(Path(chosen).expanduser().absolute() if chosen else Path.home() / ".crucible")

    @property
    def runs(self) -> Path:
        """Folder of run folders."""
        return self.root / "runs"

    @property
    def index(self) -> Path:
        """SQLite view of all runs; may be deleted at any time."""
        return self.root / "index.sqlite"
