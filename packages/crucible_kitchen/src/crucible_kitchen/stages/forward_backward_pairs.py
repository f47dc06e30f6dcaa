"""Submit the preference loss of one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crucible_ir import Contract, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.capability import lacking
from crucible_kitchen.stages.keys import BATCH, FORWARD_BACKWARD, REFERENCE, SESSION
from crucible_train.preference import DpoSettings, dpo_loss

__all__ = ["ForwardBackwardPairs", "PairLossOptions"]

_ITEM: Key[NDArray[np.int64]] = Key("batches_item")


class PairLossOptions(Contract):
    """The preference loss."""

    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    loss: Literal["sigmoid", "ipo"] = "sigmoid"

    def settings(self) -> DpoSettings:
        """As the training layer takes them."""
        return DpoSettings(beta=self.beta, label_smoothing=self.label_smoothing, loss=self.loss)


class ForwardBackwardPairs(Stage):
    """Submit the forward and backward pass of this step's pairs under the preference loss."""

    name = "forward_backward_pairs"
    reads = (SESSION, BATCH, REFERENCE, FORWARD_BACKWARD, _ITEM)
    writes = (FORWARD_BACKWARD,)
    ports = ("training_backend",)
    options_model = PairLossOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The backend takes losses of the caller's."""
        backend = plan.ports.get("training_backend")
        return lacking(backend, {"custom_loss": True}, asked_of="preference training")

    async def run(self, ctx: StageContext) -> None:
        """The loss is a mean over pairs, so a batch is one pass; nothing is awaited here."""
        loss = dpo_loss(ctx.get(REFERENCE)[ctx.get(_ITEM)], self.options.settings())
        made = ctx.get(SESSION).forward_backward_custom(ctx.get(BATCH), loss)
        ctx.set(FORWARD_BACKWARD, [*ctx.get(FORWARD_BACKWARD), made])
