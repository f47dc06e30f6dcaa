"""Open the model that teaches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crucible_ir import CheckpointRef, Contract, NotFoundError, Problem, digest_of
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.init_tokenizer import renderer_problems
from crucible_kitchen.stages.keys import PROVENANCE, TEACHER
from crucible_kitchen.stages.teacher import Teacher
from crucible_train.ports import TrainingBackend, TrainingSpec
from crucible_train.renderers import get_renderer, recommended_renderer
from crucible_train.types import LoraConfig

__all__ = ["LoadTeacher", "LoadTeacherOptions"]


class LoadTeacherOptions(Contract):
    """Which model teaches."""

    model: str
    """Folder or hub id of the teacher's base model."""
    weights: str | None = None
    """Folder of weights that a run saved (``checkpoints/final``); None takes the base model as it is."""
    renderer: str | None = None
    """The teacher's own chat format; None takes the one recommended for its model."""


class LoadTeacher(Stage):
    """Open the model that teaches, with its own tokenizer and chat format."""

    name = "load_teacher"
    reads = (PROVENANCE,)
    writes = (TEACHER, PROVENANCE)
    ports = ("training_backend",)
    options_model = LoadTeacherOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The model and the weights are there and the renderer is known."""
        options = self.options
        backend: TrainingBackend = plan.ports.get("training_backend")
        spec = TrainingSpec(
            base_model=options.model, lora=LoraConfig(rank=1), seed=0, checkpoint_dir=Path("checkpoints")
        )
        backend.check(spec)
        if options.weights is not None and not Path(options.weights).is_dir():
            raise NotFoundError(
                what=f"no folder {options.weights!r}",
                where=f"{plan.path}.options.weights",
                remedy="name the folder of weights that a run saved, such as …/checkpoints/final",
            )
        return renderer_problems(options.renderer, options.model, where=f"{plan.path}.options.renderer")

    async def run(self, ctx: StageContext) -> None:
        """The teacher is closed when the run ends."""
        options = self.options
        backend: TrainingBackend = ctx.port("training_backend")
        weights = None
        if options.weights is not None:
            folder = Path(options.weights)
            weights = CheckpointRef(id=folder.name, path=str(folder), content="sampler")
        sampler = await backend.create_sampling_client(options.model, weights)
        ctx.defer(sampler.close)
        tokenizer = await backend.load_tokenizer(options.model)
        renderer = get_renderer(options.renderer or recommended_renderer(options.model), tokenizer)
        base = backend.model_digest(options.model)
        manifest = Path(options.weights, "manifest.json").read_text("utf-8") if options.weights else None
        digest = digest_of([base, manifest, tokenizer.digest, renderer.digest])
        name = options.model if options.weights is None else f"{options.model} with {options.weights}"
        ctx.set(TEACHER, Teacher(name=name, digest=digest, sampler=sampler, renderer=renderer))
        ctx.set(PROVENANCE, ctx.get(PROVENANCE) | {"teacher": {"id": name, "digest": digest}})
        ctx.emit("model.loaded", {"role": "teacher", "model": name, "digest": digest})
