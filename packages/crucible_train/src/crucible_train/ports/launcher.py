"""The port of what starts programs: here, on a cluster, under a scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from crucible_ir.errors import ConfigError

__all__ = ["Job", "JobState", "JobStatus", "Launcher", "Resources"]

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for; None leaves it to the launcher's own settings.

    ``processes`` on each of ``nodes`` form one group, started by torchrun. ``cpus`` and ``gpus`` are those of a node.

    Raises:
        ConfigError: a number below its least.
    """

    processes: int = 1
    nodes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory_gib: float | None = None
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("nodes", 1), ("cpus", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(what=f"{name} = {value}", where="resources", remedy=f"give {least} or more")
        for name in ("memory_gib", "time_limit_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(what=f"{name} = {value}", where="resources", remedy="give more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A Python module to be run as a program: ``python -m module arguments``.

    ``env`` is added to what the job finds where it runs. ``folder`` is where it starts. What it prints goes to ``log``,
    a file that is appended to.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path
    log: Path
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How a job stands; ``reason`` says in a few words why, where that is known."""

    state: JobState
    exit_code: int | None = None
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("succeeded", "failed", "cancelled")


@runtime_checkable
class Launcher(Protocol):
    """Starts jobs that outlive whoever started them. Another process of the same user may ask by a job's id."""

    def submit(self, job: Job) -> str:
        """Hand ``job`` over; its id.

        Raises:
            ConfigError: what it asks for cannot be had here.
            ServiceError: the scheduler does not take it.
            StorageError: its files cannot be written.
        """
        ...

    def status(self, job_id: str) -> JobStatus:
        """How the job stands now.

        Raises:
            NotFoundError: there is no such job.
            ServiceError: the scheduler does not answer.
        """
        ...

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until it is over, at most ``timeout_s`` seconds; how it stands then.

        Raises:
            NotFoundError, ServiceError: as ``status``.
        """
        ...

    def cancel(self, job_id: str) -> None:
        """Ask it to end (SIGTERM), and make it end when it does not; harmless when it is over.

        Raises:
            NotFoundError, ServiceError: as ``status``.
        """
        ...

    def logs(self, job_id: str) -> str:
        """What it has printed so far.

        Raises:
            NotFoundError: there is no such job.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; jobs go on. Closing twice is harmless."""
        ...
