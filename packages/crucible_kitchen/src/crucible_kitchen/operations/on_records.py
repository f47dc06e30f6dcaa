"""What looks at runs: status, list, events, metrics, artifacts, fetch."""

from __future__ import annotations

from pathlib import Path

from crucible_ir import ConfigError, RunRecord
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.artifacts import artifacts_of, copy_artifact
from crucible_kitchen.operations.run_models import (
    ArtifactList,
    EventPage,
    EventsAfter,
    FetchArtifact,
    FetchedArtifact,
    ListRuns,
    MetricsAfter,
    MetricTable,
    OneRun,
    RunList,
    UnreadableRun,
)
from crucible_kitchen.operations.service import Service

__all__ = ["admit_destination", "artifacts", "events", "fetch", "list_runs", "metrics", "status"]


def status(service: Service, request: OneRun) -> RunRecord:
    """The record of one run as it stands."""
    return service.store.open(request.run_id).record()


def list_runs(service: Service, request: ListRuns) -> RunList:
    """Runs, newest first."""
    listing = service.store.records()
    found = [
        record
        for record in listing.records
        if (request.state is None or record.state == request.state)
        and (request.recipe is None or record.recipe == request.recipe)
        and (request.tag is None or request.tag in record.tags)
    ]
    return RunList(
        runs=tuple(found[: request.limit]),
        unreadable=tuple(UnreadableRun(run_id=item.run_id, problem=item.damage) for item in listing.damaged),
    )


def events(service: Service, request: EventsAfter) -> EventPage:
    """Events of a run after a sequence number."""
    run = service.store.open(request.run_id)
    found = tuple(run.events(request.after, request.limit))
    return EventPage(events=found, last_seq=found[-1].seq if found else request.after)


def metrics(service: Service, request: MetricsAfter) -> MetricTable:
    """Metrics of a run, from the store that it logs to."""
    run = service.store.open(request.run_id)
    ports = ManifestPorts(run.manifest(), home=service.home.root, environ=service.environ)
    if "metrics_store" not in ports.names():
        return MetricTable(run_id=run.run_id, rows=())
    store = ports.get("metrics_store")
    try:
        rows = store.read(run.run_id, request.after_step)
    finally:
        store.close()
    return MetricTable(run_id=run.run_id, rows=tuple(rows))


def artifacts(service: Service, request: OneRun) -> ArtifactList:
    """What a run has written."""
    run = service.store.open(request.run_id)
    return ArtifactList(run_id=run.run_id, artifacts=artifacts_of(run))


def admit_destination(service: Service, given: str) -> Path:
    """The path ``given``, if the caller may write there.

    Raises:
        ConfigError: it is no path, or the caller is from outside and it is not under an allowed folder.
    """
    try:
        destination = Path(given).expanduser()
        resolved = destination.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the home of a user there is not
        raise ConfigError(
            what=f"{given!r} is no path ({error})", where="destination", remedy="name another one"
        ) from error
    if not service.trusted and not any(
        resolved.is_relative_to(root.resolve()) for root in service.allowed_roots
    ):
        raise ConfigError(
            what=f"{given!r} is not under an allowed folder",
            where="destination",
            remedy="name a path under one, or read the artifact through the gateway",
        )
    return destination


def fetch(service: Service, request: FetchArtifact) -> FetchedArtifact:
    """Copy an artifact out of the run's folder.

    Raises:
        ConfigError: the caller is from outside and ``destination`` is not under an allowed folder.
    """
    run = service.store.open(request.run_id)
    copy = copy_artifact(run, request.artifact, admit_destination(service, request.destination))
    size = sum(item.stat().st_size for item in copy.rglob("*") if item.is_file()) or copy.stat().st_size
    return FetchedArtifact(path=str(copy), size_bytes=size)
