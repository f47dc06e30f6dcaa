"""What every operation works on: a home, its runs, the environment, and how far the caller is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crucible_ir import Experiment
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.credentials import redactor_for
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.runs.attempt import Engine, Listener
from crucible_kitchen.runs.execution import RunExecutor
from crucible_kitchen.runs.folder import RunSettings
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.store import RunStore

__all__ = ["Service"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One home, seen by one kind of caller.

    ``trusted`` False is for callers from outside (REST, agents): what they send may name registered things
    only, and files only under ``allowed_roots``.
    """

    home: Home
    environ: Mapping[str, str]
    trusted: bool = True
    allowed_roots: tuple[Path, ...] = ()
    engine: Engine | None = None
    listeners: tuple[Listener, ...] = ()
    redactor: Redactor = field(init=False)
    store: RunStore = field(init=False)
    executor: RunExecutor = field(init=False)

    def __post_init__(self) -> None:
        """Make the store and the executor of this home."""
        redactor = redactor_for(self.environ)
        store = RunStore(self.home, settings=RunSettings(redact=redactor))
        executor = RunExecutor(self.home, environ=self.environ, engine=self.engine, listeners=self.listeners)
        object.__setattr__(self, "redactor", redactor)
        object.__setattr__(self, "store", store)
        object.__setattr__(self, "executor", executor)

    def manifest_of(self, experiment: Experiment) -> Manifest:
        """The manifest that ``experiment`` names, with its overrides.

        Raises:
            ConfigError: no such profile, or wrong keys.
            NotFoundError: no such file.
        """
        return load_manifest(experiment.backend.manifest, experiment.backend)
