"""Which process this is among those that ``torchrun`` started; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from crucible_ir.errors import ConfigError

__all__ = ["World"]

_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process's number among ``size``, and its number on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """As torchrun says; a process that it did not start is alone.

        Raises:
            ConfigError: a variable of torchrun is no number.
        """
        if _STARTED_BY_TORCHRUN not in environ:
            return cls()
        return cls(
            rank=_number(environ, "RANK"),
            size=_number(environ, "WORLD_SIZE"),
            local_rank=_number(environ, "LOCAL_RANK"),
        )

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process has the run, and the others follow it."""
        return self.rank == 0


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            what=f"{name} = {environ.get(name)!r} beside {_STARTED_BY_TORCHRUN}",
            where="environment",
            remedy="start the processes with torchrun, or unset its variables",
        ) from error
