"""What changes runs: create, run, resume, cancel, decide."""

from __future__ import annotations

from datetime import UTC, datetime

from crucible_ir import ConfigError, Experiment, RunRecord, RunState
from crucible_ir.approvals import ApprovalDecision
from crucible_kitchen.catalog import recipe as installed_recipe
from crucible_kitchen.manifests.credentials import redactor_for
from crucible_kitchen.operations.admission import admit_experiment, admit_manifest, admit_recipe, stage_nodes
from crucible_kitchen.operations.launches import admit_launch, hand_over
from crucible_kitchen.operations.run_models import (
    CancelRun,
    CreateRun,
    DecideRun,
    PlanReport,
    ResumeRun,
    RunSpec,
)
from crucible_kitchen.operations.service import Service
from crucible_kitchen.runs import requests
from crucible_kitchen.runs.attempt import Prepared
from crucible_kitchen.runs.creation import CreateOptions
from crucible_kitchen.runs.folder import RunFolder
from crucible_kitchen.runs.launching import launch_again, launch_of, require_distributed, with_launcher
from crucible_kitchen.runs.worker import detach

__all__ = ["cancel", "create", "decide", "experiment_of", "plan", "resume", "run"]


def experiment_of(service: Service, spec: RunSpec) -> Experiment:
    """The experiment that ``spec`` asks for, admitted if it comes from outside.

    Raises:
        ConfigError: everything that is wrong with it, at once.
        AdapterError: there is no such recipe.
    """
    if spec.manifest is not None and not service.trusted:
        problems = admit_manifest(spec.manifest, where="manifest")
        if problems:
            raise ConfigError(problems=problems)
    if spec.recipe is not None:
        if not service.trusted:
            admit_recipe(spec.recipe, spec.config, roots=service.allowed_roots)
        experiment = installed_recipe(spec.recipe).parse(dict(spec.config))
    else:
        assert spec.experiment is not None  # RunSpec holds one of the two
        experiment = spec.experiment
        if not service.trusted:
            admit_experiment(experiment, roots=service.allowed_roots)
    if spec.manifest is not None:
        backend = experiment.backend.model_copy(update={"manifest": spec.manifest})
        experiment = experiment.model_copy(update={"backend": backend})
    return experiment


def _prepare(service: Service, spec: RunSpec) -> Prepared:
    """The checked plan of ``spec``; its ports are to be closed."""
    experiment = experiment_of(service, spec)
    admit_launch(service, spec.launcher, spec.processes)
    manifest = service.manifest_of(experiment)
    if spec.launcher is not None or spec.processes > 1:
        manifest = with_launcher(manifest, spec.launcher)
    prepared = service.executor.prepare(experiment, manifest)
    try:
        require_distributed(prepared.ports, spec.processes)
    except BaseException:
        prepared.ports.close()
        raise
    return prepared


def _write(service: Service, spec: RunSpec, prepared: Prepared) -> RunFolder:
    options = CreateOptions(
        idempotency_key=spec.idempotency_key,
        actor=spec.actor,
        parent_run=spec.parent_run,
        tags=(*prepared.experiment.tags, *(tag for tag in spec.tags if tag not in prepared.experiment.tags)),
    )
    manifest = prepared.ports.manifest
    return service.store.create(
        prepared.experiment, manifest, options, redactor=redactor_for(service.environ, manifest)
    )


def plan(service: Service, spec: RunSpec) -> PlanReport:
    """Check the whole plan and write nothing."""
    prepared = _prepare(service, spec)
    prepared.ports.close()
    experiment = prepared.experiment
    return PlanReport(
        experiment_id=experiment.id,
        config_digest=experiment.config_digest,
        recipe=experiment.recipe,
        workflow=experiment.workflow,
        manifest=prepared.ports.manifest.profile,
        adapters={port: choice.adapter for port, choice in prepared.ports.manifest.ports.items()},
        stages=tuple(
            stage.label or stage.name for _, stage in stage_nodes(experiment.pipeline) if stage.enabled
        ),
    )


def create(service: Service, request: CreateRun) -> RunRecord:
    """Check the plan, write the run down, and let a process of its own execute it."""
    prepared = _prepare(service, request)
    prepared.ports.close()
    run = _write(service, request, prepared)
    if request.start and run.record().state is RunState.CREATED:
        launch = launch_of(run.manifest(), request.processes)
        if launch is None:
            detach(run, service.home, environ=service.environ)
        else:
            hand_over(service, run, launch)
    return run.record()


def run(service: Service, spec: RunSpec) -> RunRecord:
    """Check the plan, write the run down and execute it in this process."""
    prepared = _prepare(service, spec)
    try:
        created = _write(service, spec, prepared)
        record = created.record()
    except BaseException:
        prepared.ports.close()
        raise
    if record.state is not RunState.CREATED and spec.idempotency_key is not None:
        prepared.ports.close()
        return record
    launch = launch_of(created.manifest(), spec.processes)
    if launch is None:
        return service.executor.start(created, prepared)
    prepared.ports.close()
    return hand_over(service, created, launch, watch=True)


def resume(service: Service, request: ResumeRun) -> RunRecord:
    """Go on with a run that was interrupted, failed, or waited and was answered."""
    admit_launch(service, request.launcher, request.processes or 1)
    folder = service.store.open(request.run_id)
    launch = launch_again(folder, request.launcher, request.processes)
    if launch is None and not request.detached:
        return service.executor.resume(folder, request.checkpoint)
    service.executor.check_resume(folder, request.checkpoint)
    if launch is not None:
        words = ("--resume", *(("--checkpoint", request.checkpoint) if request.checkpoint else ()))
        return hand_over(service, folder, launch, arguments=words, watch=not request.detached)
    detach(folder, service.home, resume=True, checkpoint=request.checkpoint, environ=service.environ)
    return folder.record()


def cancel(service: Service, request: CancelRun) -> RunRecord:
    """Stop a run, from whatever process."""
    return requests.cancel(service.store.open(request.run_id), actor=request.actor)


def decide(service: Service, request: DecideRun) -> RunRecord:
    """Answer what a run waits for."""
    folder = service.store.open(request.run_id)
    decision = ApprovalDecision(
        request_digest=request.request_digest,
        approved=request.approved,
        actor=request.actor,
        comment=request.comment,
        at=datetime.now(UTC),
    )
    record = requests.decide(folder, decision)
    if request.resume:
        launch = launch_again(folder, None, None)
        if launch is None:
            detach(folder, service.home, resume=True, environ=service.environ)
        else:
            hand_over(service, folder, launch, arguments=("--resume",))
    return record
