"""The Python interface: one method per operation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from crucible_ir import Contract, Experiment, RunRecord, RunState
from crucible_kitchen.operations import catalog_models as catalog
from crucible_kitchen.operations import conformance_models as checks
from crucible_kitchen.operations import render_models as renders
from crucible_kitchen.operations import run_models as runs
from crucible_kitchen.operations.service import Service
from crucible_kitchen.operations.table import invoke
from crucible_kitchen.runs.attempt import Engine, Listener
from crucible_kitchen.runs.home import Home

__all__ = ["Crucible"]

C = TypeVar("C", bound=Contract)


class Crucible:
    """Runs of one home. Every method is an operation of the table; all raise ``CrucibleError``.

    ``home`` None takes ``$CRUCIBLE_HOME``, else ``~/.crucible``. ``trusted`` False admits only registered
    names, as for callers from outside, and files under ``allowed_roots``. ``listeners`` are told events and
    metrics of runs that are executed in this process.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        trusted: bool = True,
        allowed_roots: tuple[Path, ...] = (),
        listeners: tuple[Listener, ...] = (),
        engine: Engine | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        root = Home.default(environ) if home is None else Home(Path(home).expanduser().absolute())
        self.service = Service(
            home=root,
            environ=environ,
            trusted=trusted,
            allowed_roots=allowed_roots,
            listeners=listeners,
            engine=engine,
        )

    def call(self, operation: str, payload: Contract | Mapping[str, Any] | str | bytes) -> Contract:
        """Any operation by name, with its input as a contract, a mapping or JSON text."""
        return invoke(self.service, operation, payload)

    def plan(self, what: Experiment | str, **settings: Any) -> runs.PlanReport:
        """Check an experiment, or a recipe with ``config=…``, whole; nothing is written."""
        return self._call("plan", _spec(what, settings), runs.PlanReport)

    def create(self, what: Experiment | str, **settings: Any) -> RunRecord:
        """Write a run down and execute it in a process of its own; settings are those of ``CreateRun``."""
        return self._call("create", _spec(what, settings), RunRecord)

    def run(self, what: Experiment | str, **settings: Any) -> RunRecord:
        """Write a run down and execute it here; settings are those of ``RunSpec``."""
        return self._call("run", _spec(what, settings), RunRecord)

    def resume(self, run_id: str, checkpoint: str | None = None, **settings: Any) -> RunRecord:
        """Go on with a run from its newest checkpoint, or from the one named; settings are those of ``ResumeRun``."""
        request = {"run_id": run_id, "checkpoint": checkpoint, **settings}
        return self._call("resume", request, RunRecord)

    def cancel(self, run_id: str, *, actor: str = "local") -> RunRecord:
        """Stop a run, from whatever process."""
        return self._call("cancel", {"run_id": run_id, "actor": actor}, RunRecord)

    def decide(
        self, run_id: str, request_digest: str, *, approved: bool, actor: str = "local", comment: str = ""
    ) -> RunRecord:
        """Answer what a run waits for; ``resume`` then lets it go on."""
        request = {
            "run_id": run_id,
            "request_digest": request_digest,
            "approved": approved,
            "actor": actor,
            "comment": comment,
        }
        return self._call("decide", request, RunRecord)

    def status(self, run_id: str) -> RunRecord:
        """The record of a run as it stands."""
        return self._call("status", {"run_id": run_id}, RunRecord)

    def list(
        self,
        *,
        limit: int | None = None,
        state: RunState | None = None,
        recipe: str | None = None,
        tag: str | None = None,
    ) -> runs.RunList:
        """Runs, newest first."""
        request = {"limit": limit, "state": state, "recipe": recipe, "tag": tag}
        return self._call("list", request, runs.RunList)

    def events(self, run_id: str, after: int = 0, limit: int | None = None) -> runs.EventPage:
        """Events of a run with ``seq > after``."""
        request = {"run_id": run_id, "after": after, "limit": limit}
        return self._call("events", request, runs.EventPage)

    def metrics(self, run_id: str, after_step: int | None = None) -> runs.MetricTable:
        """Metrics of a run, one row per step."""
        request = {"run_id": run_id, "after_step": after_step}
        return self._call("metrics", request, runs.MetricTable)

    def artifacts(self, run_id: str) -> runs.ArtifactList:
        """What a run has written."""
        return self._call("artifacts", {"run_id": run_id}, runs.ArtifactList)

    def fetch(self, run_id: str, artifact: str, destination: str | Path) -> runs.FetchedArtifact:
        """Copy an artifact to a path."""
        request = {"run_id": run_id, "artifact": artifact, "destination": str(destination)}
        return self._call("fetch", request, runs.FetchedArtifact)

    def export(
        self, run_id: str, destination: str | Path, *, weights: str = "final", merge: bool = True
    ) -> runs.ExportedWeights:
        """Write weights as a model that ``transformers`` loads, or an adapter that ``peft`` loads."""
        request = runs.ExportWeights(
            run_id=run_id, destination=str(destination), weights=weights, merge=merge
        )
        return self._call("export", request, runs.ExportedWeights)

    def render_check(self, model: str, **settings: Any) -> renders.RenderReport:
        """Hold a renderer against the tokenizer's chat template; settings are those of ``RenderCheck``."""
        return self._call("render_check", {"model": model, **settings}, renders.RenderReport)

    def render_show(self, model: str, **settings: Any) -> renders.RenderedConversations:
        """Tokens of conversations with their weights; settings are those of ``RenderRequest``."""
        return self._call("render_show", {"model": model, **settings}, renders.RenderedConversations)

    def conformance(self, target: str, **settings: Any) -> checks.ConformanceReport:
        """Hold a backend or server against numerical checks; settings are those of ``CheckTarget``."""
        return self._call("conformance", {"target": target, **settings}, checks.ConformanceReport)

    def conformance_checks(self, only: tuple[str, ...] = ()) -> checks.CheckList:
        """The checks of the conformance suite."""
        return self._call("conformance_checks", {"only": only}, checks.CheckList)

    def adapters(self, port: str | None = None, *, check: bool = False) -> catalog.AdapterList:
        """Installed adapters; ``check`` imports each and looks whether it fits."""
        return self._call("adapters", {"port": port, "check": check}, catalog.AdapterList)

    def recipes(self, name: str | None = None) -> catalog.Catalog:
        """Installed recipes."""
        return self._call("recipes", {"name": name}, catalog.Catalog)

    def workflows(self, name: str | None = None) -> catalog.Catalog:
        """Installed workflows."""
        return self._call("workflows", {"name": name}, catalog.Catalog)

    def stages(self, name: str | None = None) -> catalog.Catalog:
        """Installed stages."""
        return self._call("stages", {"name": name}, catalog.Catalog)

    def environments(self, name: str | None = None) -> catalog.Catalog:
        """Installed environments of reinforcement learning."""
        return self._call("environments", {"name": name}, catalog.Catalog)

    def doctor(self, manifest: str = "offline") -> catalog.DoctorReport:
        """What is in order on this machine and what is not."""
        return self._call("doctor", {"manifest": manifest}, catalog.DoctorReport)

    def _call(self, operation: str, payload: Contract | Mapping[str, Any], output: type[C]) -> C:
        return cast(C, self.call(operation, payload))


def _spec(what: Experiment | str, settings: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {"recipe": what} if isinstance(what, str) else {"experiment": what}
    return {**named, **settings}
