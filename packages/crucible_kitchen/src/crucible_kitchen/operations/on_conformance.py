"""The conformance suite against a server or against the training backend of a manifest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from crucible_ir import ConfigError
from crucible_kitchen.blocking import run_to_end
from crucible_kitchen.conformance.bench import Bench, BenchSettings
from crucible_kitchen.conformance.check import Check
from crucible_kitchen.conformance.suite import Result, run_checks, select
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.manifests.manifest import AdapterChoice, Manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.admission import admit_manifest, admit_model
from crucible_kitchen.operations.bundled import bundled_or
from crucible_kitchen.operations.conformance_models import (
    CheckItem,
    CheckList,
    CheckOutcome,
    CheckTarget,
    ConformanceReport,
    ListChecks,
)
from crucible_kitchen.operations.service import Service
from crucible_train.ports import TrainingBackend

__all__ = ["conformance", "conformance_checks"]

_LEFTOVERS_S = 3600
"""After this time a server may delete the states that the suite saved on it."""


def conformance_checks(service: Service, request: ListChecks) -> CheckList:
    """The checks in the order in which they run.

    Raises:
        ConfigError: a name that is no check and no family.
    """
    return CheckList(checks=tuple(_item(check) for check in select(request.only)))


def conformance(service: Service, request: CheckTarget) -> ConformanceReport:
    """Run the suite; listeners of the service hear ``conformance.check`` for each result as it comes.

    Raises:
        ConfigError: an unknown check, manifest or model, a missing key, or a rank that the backend does not have.
        ServiceError: the server cannot be reached.
    """
    checks = select(request.only)
    manifest = _manifest(service, request)
    ports = ManifestPorts(manifest, home=service.home.root, environ=service.environ)

    def told(result: Result) -> None:
        for listener in service.listeners:
            data = {**_outcome(result).model_dump(mode="json"), "of": len(checks)}
            listener("conformance.check", data)

    async def work() -> ConformanceReport:
        try:
            backend: TrainingBackend = ports.get("training_backend")
            with tempfile.TemporaryDirectory(prefix="crucible-conformance-") as folder:
                settings = BenchSettings(
                    model=_model(backend, request),
                    folder=Path(folder),
                    rank=request.rank,
                    seed=request.seed,
                    tolerance=request.tolerance,
                )
                bench = Bench(backend, backend.capabilities(), settings)
                backend.check(bench.spec())
                await bench.fresh()  # loads the model, or finds out now that it cannot be opened
                await bench.clear()
                results = await run_checks(bench, checks, timeout_s=request.timeout_s, told=told)
            return _report(request, bench, results)
        finally:
            await ports.aclose()

    return run_to_end(work)


def _manifest(service: Service, request: CheckTarget) -> Manifest:
    """The manifest that is named, or one that is made for an address."""
    if not service.trusted:
        problems = admit_manifest(request.target, where="target")
        problems += admit_model(request.model or "", roots=service.allowed_roots)
        if problems:
            raise ConfigError(problems=problems)
    if not request.target.startswith(("http://", "https://")):
        return load_manifest(request.target)
    options: dict[str, Any] = {
        "base_url": request.target,
        "api_key": {"env": request.api_key_env},
        "checkpoint_ttl_s": _LEFTOVERS_S,
    }
    choice = AdapterChoice(adapter="tinker", options=options, package="crucible-kitchen[tinker]")
    return Manifest(profile="server", ports={"training_backend": choice})


def _model(backend: TrainingBackend, request: CheckTarget) -> str:
    """The model that is asked for, or the only one that a server offers."""
    if request.model is not None:
        return bundled_or(request.model)
    offered: tuple[str, ...] = getattr(backend, "trainable_models", tuple)()
    if len(offered) == 1:
        return offered[0]
    raise ConfigError(
        what=f"which of {', '.join(offered)}?" if offered else f"no model is named for {request.target}",
        where="model",
        remedy="name one with --model"
        + ("" if offered else ": a folder or hub id, or tiny for the bundled one"),
    )


def _item(check: Check) -> CheckItem:
    return CheckItem(
        id=check.id,
        family=check.family,
        title=check.title,
        tolerance=check.tolerance,
        builds_on=check.builds_on,
        needs=check.needs,
    )


def _outcome(result: Result) -> CheckOutcome:
    check = result.check
    return CheckOutcome(
        id=check.id,
        family=check.family,
        title=check.title,
        status=result.status,
        tolerance=check.tolerance,
        found=result.found,
        expected=result.expected,
        diagnosis=result.diagnosis,
        reason=result.reason,
    )


def _report(request: CheckTarget, bench: Bench, results: list[Result]) -> ConformanceReport:
    counts = {
        status: sum(result.status == status for result in results)
        for status in ("passed", "failed", "not_run")
    }
    return ConformanceReport(
        target=request.target,
        backend=bench.capabilities.name,
        model=request.model or bench.settings.model,
        ok=counts["failed"] == 0,
        checks=tuple(_outcome(result) for result in results),
        **counts,
    )
