"""Open the model under training."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from crucible_ir import ConfigError, Experiment, Problem, TrainingConfig
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PROVENANCE, SESSION, STEP
from crucible_kitchen.stages.provenance import require_same
from crucible_train.losses import LOSSES, find_loss
from crucible_train.ports import TrainingBackend, TrainingClient, TrainingSpec
from crucible_train.seeds import generator
from crucible_train.types import LoraConfig

__all__ = ["InitSession", "training_spec"]


def training_spec(experiment: Experiment, checkpoint_dir: Path) -> TrainingSpec:
    """What the experiment asks of a backend; the adapter's seed follows from the experiment's unless given."""
    training, model = experiment.training, experiment.model
    if training is None or model is None:
        raise ValueError("an experiment without model or training settings has no training spec")
    lora = training.lora
    derived = int(generator(experiment.seed, "lora", 0).integers(2**31))
    return TrainingSpec(
        base_model=model.uri or model.id,
        lora=None
        if lora is None
        else LoraConfig(
            rank=lora.rank,
            alpha=lora.alpha,
            seed=derived if lora.seed is None else lora.seed,
            train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
            train_unembed=lora.train_unembed,
        ),
        seed=experiment.seed,
        checkpoint_dir=checkpoint_dir,
        dtype=training.dtype,
    )


class InitSession(Stage):
    """Open the model under training; on resume, put the saved state in place."""

    name = "init_session"
    reads = (PROVENANCE,)
    writes = (SESSION, STEP, PROVENANCE)
    ports = ("training_backend",)
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Model and training settings are given and the backend can serve them."""
        experiment = plan.experiment
        missing = [name for name in ("model", "training") if getattr(experiment, name) is None]
        if missing:
            return [Problem(path=name, message="missing", remedy=f"give the {name}") for name in missing]
        backend: TrainingBackend = plan.ports.get("training_backend")
        assert experiment.training is not None
        problems = _loss_problems(experiment.training, backend.capabilities().losses)
        if not problems:
            backend.check(training_spec(experiment, Path("checkpoints")))
        return problems

    async def run(self, ctx: StageContext) -> None:
        """Load the base model, attach the trainable weights, restore a checkpoint if there is one.

        Raises:
            IntegrityError: the base model is not the one that the resumed run began with.
        """
        backend: TrainingBackend = ctx.port("training_backend")
        spec = training_spec(ctx.experiment, ctx.run_dir / "checkpoints")
        session: TrainingClient = await backend.create_training_client(spec)
        ctx.defer(session.close)
        digest = backend.model_digest(spec.base_model)
        require_same("model", ctx.get(PROVENANCE).get("model"), {"digest": digest})
        if ctx.resume is None:
            ctx.set(STEP, 0)
        else:
            await session.load_state(ctx.resume.checkpoint)
            ctx.set(STEP, ctx.resume.step)
        ctx.set(SESSION, session)
        ctx.set(PROVENANCE, ctx.get(PROVENANCE) | {"model": {"id": spec.base_model, "digest": digest}})
        ctx.emit(
            "model.loaded",
            {"model": spec.base_model, "digest": digest, "backend": backend.capabilities().name},
        )


def _loss_problems(training: TrainingConfig, known: Collection[str]) -> list[Problem]:
    """The loss has a formula or is the backend's own, the backend has it, and its settings are in their ranges."""
    name = training.loss
    if name in known and name not in LOSSES:
        return []  # the backend's own: its settings are the backend's to check
    try:
        find_loss(name).check(training.loss_config)
    except ConfigError as error:
        path = error.where.replace("loss_fn", "loss", 1)
        return [Problem(path=f"training.{path}", message=error.what, remedy=error.remedy)]
    if name in known:
        return []
    remedy = f"it has {', '.join(sorted(known))}"
    return [Problem(path="training.loss", message=f"the backend has no loss {name!r}", remedy=remedy)]
