"""The table of operations. Python API, command line, REST and MCP are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crucible_ir import ConfigError, Contract, CrucibleError, RunRecord, nearest
from crucible_kitchen.manifests.credentials import scrub
from crucible_kitchen.operations import catalog_models as catalog
from crucible_kitchen.operations import conformance_models as checks
from crucible_kitchen.operations import (
    on_catalogs,
    on_conformance,
    on_records,
    on_renderers,
    on_runs,
    on_weights,
)
from crucible_kitchen.operations import render_models as renders
from crucible_kitchen.operations import run_models as runs
from crucible_kitchen.operations.doctoring import doctor
from crucible_kitchen.operations.operation import Operation
from crucible_kitchen.operations.service import Service

__all__ = ["OPERATIONS", "invoke", "operation"]

_ROWS = (
    Operation(
        name="plan",
        summary="Check an experiment whole, as a dry run; nothing is written.",
        input_model=runs.RunSpec,
        output_model=runs.PlanReport,
        effect="read",
        handler=on_runs.plan,
    ),
    Operation(
        name="create",
        summary="Write a run down and execute it in a process of its own.",
        input_model=runs.CreateRun,
        output_model=RunRecord,
        effect="run",
        handler=on_runs.create,
        needs_approval=True,
    ),
    Operation(
        name="run",
        summary="Write a run down and execute it here, to its end or to a question.",
        input_model=runs.RunSpec,
        output_model=RunRecord,
        effect="run",
        handler=on_runs.run,
        needs_approval=True,
    ),
    Operation(
        name="resume",
        summary="Go on with a run that was interrupted, failed, or waited and was answered.",
        input_model=runs.ResumeRun,
        output_model=RunRecord,
        effect="run",
        handler=on_runs.resume,
        needs_approval=True,
    ),
    Operation(
        name="cancel",
        summary="Stop a run, from whatever process.",
        input_model=runs.CancelRun,
        output_model=RunRecord,
        effect="write",
        handler=on_runs.cancel,
    ),
    Operation(
        name="decide",
        summary="Answer what a run waits for.",
        input_model=runs.DecideRun,
        output_model=RunRecord,
        effect="write",
        handler=on_runs.decide,
        needs_approval=True,
    ),
    Operation(
        name="status",
        summary="The record of one run as it stands.",
        input_model=runs.OneRun,
        output_model=RunRecord,
        effect="read",
        handler=on_records.status,
    ),
    Operation(
        name="list",
        summary="Runs, newest first.",
        input_model=runs.ListRuns,
        output_model=runs.RunList,
        effect="read",
        handler=on_records.list_runs,
    ),
    Operation(
        name="events",
        summary="Events of a run after a sequence number.",
        input_model=runs.EventsAfter,
        output_model=runs.EventPage,
        effect="read",
        handler=on_records.events,
    ),
    Operation(
        name="metrics",
        summary="Metrics of a run, one row per step.",
        input_model=runs.MetricsAfter,
        output_model=runs.MetricTable,
        effect="read",
        handler=on_records.metrics,
    ),
    Operation(
        name="artifacts",
        summary="What a run has written.",
        input_model=runs.OneRun,
        output_model=runs.ArtifactList,
        effect="read",
        handler=on_records.artifacts,
    ),
    Operation(
        name="fetch",
        summary="Copy an artifact of a run to a path.",
        input_model=runs.FetchArtifact,
        output_model=runs.FetchedArtifact,
        effect="write",
        handler=on_records.fetch,
    ),
    Operation(
        name="export",
        summary="Write a run's weights for plain transformers or peft.",
        input_model=runs.ExportWeights,
        output_model=runs.ExportedWeights,
        effect="write",
        handler=on_weights.export,
    ),
    Operation(
        name="render_check",
        summary="Hold a renderer against the chat template of a model's tokenizer.",
        input_model=renders.RenderCheck,
        output_model=renders.RenderReport,
        effect="read",
        handler=on_renderers.render_check,
    ),
    Operation(
        name="render_show",
        summary="The tokens that a renderer makes of conversations, with their loss weights.",
        input_model=renders.RenderRequest,
        output_model=renders.RenderedConversations,
        effect="read",
        handler=on_renderers.render_show,
    ),
    Operation(
        name="conformance",
        summary="Hold a training backend or a Tinker-compatible server against numerical checks.",
        input_model=checks.CheckTarget,
        output_model=checks.ConformanceReport,
        effect="run",
        handler=on_conformance.conformance,
        needs_approval=True,
    ),
    Operation(
        name="conformance_checks",
        summary="The checks of the conformance suite.",
        input_model=checks.ListChecks,
        output_model=checks.CheckList,
        effect="read",
        handler=on_conformance.conformance_checks,
    ),
    Operation(
        name="adapters",
        summary="Installed adapters by port.",
        input_model=catalog.ListAdapters,
        output_model=catalog.AdapterList,
        effect="read",
        handler=on_catalogs.adapters,
    ),
    Operation(
        name="recipes",
        summary="Installed recipes; one by name with its settings.",
        input_model=catalog.ListNames,
        output_model=catalog.Catalog,
        effect="read",
        handler=on_catalogs.recipes,
    ),
    Operation(
        name="workflows",
        summary="Installed workflows.",
        input_model=catalog.ListNames,
        output_model=catalog.Catalog,
        effect="read",
        handler=on_catalogs.workflows,
    ),
    Operation(
        name="stages",
        summary="Installed stages; one by name with its keys, ports and options.",
        input_model=catalog.ListNames,
        output_model=catalog.Catalog,
        effect="read",
        handler=on_catalogs.stages,
    ),
    Operation(
        name="environments",
        summary="Installed environments of reinforcement learning; one by name with its options.",
        input_model=catalog.ListNames,
        output_model=catalog.Catalog,
        effect="read",
        handler=on_catalogs.environments,
    ),
    Operation(
        name="doctor",
        summary="What is in order on this machine and what is not.",
        input_model=catalog.OneManifest,
        output_model=catalog.DoctorReport,
        effect="read",
        handler=doctor,
    ),
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.name: row for row in _ROWS})
"""Every operation by name."""


def operation(name: str) -> Operation:
    """The operation called ``name``.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name in OPERATIONS:
        return OPERATIONS[name]
    near = nearest(name, OPERATIONS)
    raise ConfigError(
        what=f"there is no operation {name!r}",
        where="operation",
        remedy=f"did you mean {near!r}?" if near else f"operations: {', '.join(OPERATIONS)}",
    )


def invoke(service: Service, name: str, payload: Contract | Mapping[str, Any] | str | bytes) -> Contract:
    """Carry out an operation with an input model, a mapping, or JSON text.

    Raises:
        CrucibleError: what the operation raises, its text without secrets; ConfigError for a wrong input.
    """
    row = operation(name)
    try:
        given = payload if isinstance(payload, row.input_model) else None
        if given is None:
            raw = payload.model_dump() if isinstance(payload, Contract) else payload
            given = row.input_model.parse(raw, where=name)
        return row.handler(service, given)
    except CrucibleError as error:
        scrub(error, service.redactor)
        raise
