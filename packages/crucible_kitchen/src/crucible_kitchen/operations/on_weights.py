"""What takes weights out of a run: export for plain ``transformers`` or ``peft``."""

from __future__ import annotations

from pathlib import Path

from crucible_ir import CheckpointRef, NotFoundError
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.on_records import admit_destination
from crucible_kitchen.operations.run_models import ExportedWeights, ExportWeights
from crucible_kitchen.operations.service import Service
from crucible_kitchen.runs.folder import RunFolder

__all__ = ["export"]


def export(service: Service, request: ExportWeights) -> ExportedWeights:
    """Write a run's weights where other programs can read them.

    Raises:
        NotFoundError: the run saved no weights of that name; names those it did.
        ConflictError: the destination exists and is not empty.
        ConfigError: the destination is not allowed, or an adapter is asked for of full fine-tuning.
    """
    run = service.store.open(request.run_id)
    destination = admit_destination(service, request.destination)
    folder = _weights(run, request.weights)
    ports = ManifestPorts(run.manifest(), home=service.home.root, environ=service.environ)
    try:
        ref = CheckpointRef(id=request.weights, path=str(folder), content="sampler", produced_by=run.run_id)
        made: Path = ports.get("training_backend").export(ref, destination, merge=request.merge)
    finally:
        ports.close()
    return ExportedWeights(path=str(made), merged=request.merge)


def _weights(run: RunFolder, name: str) -> Path:
    """The folder of the weights or checkpoint called ``name``."""
    found = sorted(path.name for path in run.checkpoints_path.glob("*/") if not path.name.startswith("."))
    if name in found:
        return run.checkpoints_path / name
    has = f"it has {', '.join(found)}" if found else "it has none yet"
    raise NotFoundError(
        what=f"{run.run_id} has no weights {name!r}; {has}",
        where="export",
        remedy="name one of them" if found else "let the run get as far as a checkpoint",
    )
