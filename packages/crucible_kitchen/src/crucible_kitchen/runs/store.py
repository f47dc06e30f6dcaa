"""All runs of one home."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crucible_ir import ConflictError, Experiment, NotFoundError, nearest
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.manifest import Manifest
from crucible_kitchen.runs.creation import CreateOptions, KeyRing, refuse_secrets, write_run
from crucible_kitchen.runs.folder import RunFolder, RunSettings
from crucible_kitchen.runs.home import Home, is_run_id, new_run_id
from crucible_kitchen.runs.index import Listing, RunIndex

__all__ = ["RunStore"]


class RunStore:
    """Creates, opens and lists runs; each is a folder, and its log is the truth about it.

    ``make_id`` gives fresh run ids.
    """

    def __init__(
        self,
        home: Home,
        *,
        settings: RunSettings | None = None,
        make_id: Callable[[], str] = lambda: new_run_id(time.time),
    ) -> None:
        self.home = home
        self.settings = settings or RunSettings()
        self._make_id = make_id
        self._index = RunIndex(home.index, home.runs)

    def create(
        self,
        experiment: Experiment,
        manifest: Manifest,
        options: CreateOptions | None = None,
        *,
        redactor: Redactor | None = None,
    ) -> RunFolder:
        """Write a run down; nothing is executed. With an idempotency key that was used before, that run.

        ``redactor`` stands in for the store's own where more secrets are known.

        Raises:
            ConfigError: the experiment holds a secret.
            ConflictError: the key was used for another experiment.
            NotFoundError: there is no such parent run.
            StorageError: nothing more can be written; no part of the run is left.
        """
        options = options or CreateOptions()
        settings = self.settings if redactor is None else replace(self.settings, redact=redactor)
        refuse_secrets(experiment, settings.redact)
        if options.parent_run is not None:
            self.open(options.parent_run)
        if options.idempotency_key is None:
            return self._opened(
                write_run(self._path(self._make_id()), experiment, manifest, options, settings)
            )
        with KeyRing(self.home.runs).hold(options.idempotency_key) as key_file:
            known = key_file.read_text(encoding="utf-8")
            if known and self._path(known).is_dir():
                return self._same(self.open(known), experiment, options.idempotency_key)
            run_id = known or self._make_id()
            key_file.write_text(run_id, encoding="utf-8")
            return self._opened(write_run(self._path(run_id), experiment, manifest, options, settings))

    def open(self, run_id: str) -> RunFolder:
        """The run called ``run_id``; a beginning that fits one run alone, or ``last``, will do.

        Raises:
            NotFoundError: there is none; names the nearest.
            ConflictError: the beginning fits several runs.
        """
        if is_run_id(run_id) and self._path(run_id).is_dir():
            return self._opened(self._path(run_id))
        return self._opened(self._path(self._resolve(run_id)))

    def records(self) -> Listing:
        """All runs, newest first, each as it stands (see ``RunFolder.record``)."""
        listing = self._index.listing()
        return Listing(
            records=tuple(
                self._opened(self._path(record.run_id)).as_it_stands(record) for record in listing.records
            ),
            damaged=listing.damaged,
        )

    def rebuild_index(self) -> Listing:
        """Make the SQLite view anew from the logs."""
        return self._index.rebuild()

    def _path(self, run_id: str) -> Path:
        return self.home.runs / run_id

    def _opened(self, path: Path) -> RunFolder:
        return RunFolder(path, self.settings)

    @staticmethod
    def _same(run: RunFolder, experiment: Experiment, key: str) -> RunFolder:
        if run.logged_record().config_digest != experiment.config_digest:
            raise ConflictError(
                what=f"the idempotency key {key!r} belongs to {run.run_id}, which has another configuration",
                where="idempotency_key",
                remedy="use another key for another experiment",
            )
        return run

    def _resolve(self, text: str) -> str:
        known = [record.run_id for record in self._index.listing().records]
        if text == "last" and known:
            return known[0]
        found = [run_id for run_id in known if run_id.startswith(text)] if text.startswith("run_") else []
        found = found or [run_id for run_id in known if len(text) >= 3 and run_id.endswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConflictError(
                what=f"{text!r} fits {len(found)} runs",
                where="run id",
                remedy=f"write one whole: {', '.join(found[:5])}",
            )
        near = nearest(text, known)
        raise NotFoundError(
            what=f"there is no run {text!r}",
            where=str(self.home.runs),
            remedy=f"did you mean {near}?" if near else "crucible runs lists them",
        )
