"""Runs that a launcher starts: admitted, handed over, and watched."""

from __future__ import annotations

from crucible_ir import ConfigError, MetricRow, RunRecord
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.on_records import metrics
from crucible_kitchen.operations.run_models import MetricsAfter
from crucible_kitchen.operations.service import Service
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.launching import Launch, Viewer, opened, submit, with_launcher

__all__ = ["admit_launch", "hand_over"]


def admit_launch(service: Service, launcher: str | None, processes: int) -> None:
    """Callers from outside start one process, where this machine decides.

    Raises:
        ConfigError: more is asked for.
    """
    if not service.trusted and (launcher is not None or processes != 1):
        raise ConfigError(
            what=f"launcher = {launcher!r}, processes = {processes}",
            where="launcher",
            remedy="leave both out; the manifest of the server says how runs are started",
        )


def hand_over(
    service: Service,
    run: RunFolder,
    launch: Launch,
    *,
    arguments: tuple[str, ...] = (),
    watch: bool = False,
) -> RunRecord:
    """Give the run to its launcher; with ``watch``, follow it to its end.

    Raises:
        CrucibleError: the launcher does not take it; with ``watch``, as for executing it here.
    """
    manifest = with_launcher(run.manifest(), launch.launcher)
    ports = ManifestPorts(manifest, home=service.home.root, environ=service.environ)

    def rows(after: int | None) -> tuple[MetricRow, ...]:
        return metrics(service, MetricsAfter(run_id=run.run_id, after_step=after)).rows

    with opened(ports) as launcher:
        viewer = Viewer(run, launcher, rows=rows)
        job_id = submit(run, service.home, launcher, launch, arguments=arguments)
        if not watch:
            return run.record()
        return viewer.watch(job_id, service.listeners)
