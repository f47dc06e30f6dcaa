"""Open the policy that training is held to."""

from __future__ import annotations

from collections.abc import Iterable

from crucible_ir import Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.capability import lacking
from crucible_kitchen.stages.keys import REFERENCE_SAMPLER
from crucible_train.ports import TrainingBackend

__all__ = ["LoadReference"]


class LoadReference(Stage):
    """Open the untrained base model as the reference of the KL penalty."""

    name = "load_reference"
    writes = (REFERENCE_SAMPLER,)
    ports = ("training_backend",)
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The backend can score given text."""
        return lacking(
            plan.ports.get("training_backend"), {"prompt_logprobs": True}, asked_of="the KL penalty"
        )

    async def run(self, ctx: StageContext) -> None:
        """It is the base model on a resumed run too, never the policy that is resumed."""
        backend: TrainingBackend = ctx.port("training_backend")
        model = ctx.experiment.model
        assert model is not None
        sampler = await backend.create_sampling_client(model.uri or model.id)
        ctx.defer(sampler.close)
        ctx.set(REFERENCE_SAMPLER, sampler)
