"""Preference optimisation on pairs of completions."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pydantic import Field, model_validator

from crucible_cookbook.data import PreferenceData, preference_data
from crucible_cookbook.settings import renderer_of
from crucible_cookbook.supervised import RowSettings, base_experiment
from crucible_ir import Experiment
from crucible_kitchen.recipes import Recipe
from crucible_kitchen.workflows.preference import PreferenceOptions, preference

__all__ = ["Preference", "PreferenceConfig"]


class PreferenceConfig(RowSettings):
    """Settings of ``preference``."""

    dataset: str | None = None
    """``hhh``, ``helpsteer3``, ``ultrafeedback``, ``tiny``, or a path of pairs; None: ``data.path``, else ``hhh``."""
    data: PreferenceData = preference_data("hhh")
    """What is to differ from the dataset's own: limits, splits, columns, another path."""
    dpo_beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a label is wrong."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """Form of the loss: DPO's, or IPO's squared distance."""
    learning_rate: float = Field(default=1e-5, ge=0)
    """Peak learning rate of Adam."""
    max_length: int = Field(default=8192, ge=2)
    """Tokens of an example; what is longer is cut at its end."""
    batch_size: int = Field(default=256, ge=1)
    """Pairs per step."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_dataset(cls, given: Any) -> Any:
        """Fill in what ``data`` leaves open by what the dataset is known to need."""
        if not isinstance(given, dict):
            return given
        data = given.get("data", {})
        if isinstance(data, PreferenceData):
            data = data.model_dump(exclude_unset=True)
        dataset = given.get("dataset")
        if not isinstance(data, dict) or not isinstance(dataset, str | None):
            return given
        if dataset is None and "path" in data:
            return given
        return given | {"data": preference_data(dataset or "hhh").model_dump() | data}


class Preference(Recipe[PreferenceConfig]):
    """Preference optimisation (DPO, IPO) on pairs of chosen and rejected completions."""

    name = "preference"
    config_model = PreferenceConfig

    def experiment(self, config: PreferenceConfig) -> Experiment:
        """Score the reference once, train on pairs, watch held-out preference accuracy."""
        options = PreferenceOptions(
            renderer=renderer_of(config.model, config.renderer),
            beta=config.dpo_beta,
            label_smoothing=config.label_smoothing,
            loss=config.loss,
            on_error=config.on_error,
            evaluate=config.data.held_out() is not None,
        )
        return base_experiment(
            self.name, config, config.data, workflow=self.name, pipeline=preference(options)
        )


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", Preference.name, *sys.argv[1:]]))
