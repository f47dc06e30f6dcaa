"""Building an experiment step by step; every step gives a new builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from crucible_ir.experiment import BackendRef, Experiment, OutputSpec
from crucible_ir.feedback import FeedbackConfig
from crucible_ir.pipeline import PipelineNode
from crucible_ir.refs import DatasetRef, ModelRef
from crucible_ir.reliability import (
    EnsembleConfig,
    FairnessConfig,
    GuardrailConfig,
    HedgingConfig,
    StatsConfig,
)
from crucible_ir.training import TrainingConfig
from crucible_ir.vocabulary import ExperimentType

__all__ = ["ExperimentBuilder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentBuilder:
    """An experiment in the making. Nothing is checked before ``build``, which names every problem at once."""

    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What is known so far: field of ``Experiment`` → value."""

    @classmethod
    def start(cls, experiment_id: str) -> Self:
        """A builder that knows the id alone."""
        return cls(fields=MappingProxyType({"id": experiment_id}))

    def with_fields(self, **fields: Any) -> Self:
        """Set any fields of ``Experiment``; an unknown one is reported by ``build``."""
        return type(self)(fields=MappingProxyType({**self.fields, **fields}))

    def _and(self, name: str, item: Any) -> Self:
        return self.with_fields(**{name: (*self.fields.get(name, ()), item)})

    def _reliable(self, name: str, part: Any) -> Self:
        return self.with_fields(reliability={**self.fields.get("reliability", {}), name: part})

    def with_description(self, text: str) -> Self:
        """Say in words what this is."""
        return self.with_fields(description=text)

    def with_owner(self, owner: str) -> Self:
        """Say whose it is."""
        return self.with_fields(owner=owner)

    def with_tags(self, *tags: str) -> Self:
        """Add tags."""
        return self.with_fields(tags=(*self.fields.get("tags", ()), *tags))

    def with_metadata(self, **metadata: Any) -> Self:
        """Add free-form facts."""
        return self.with_fields(metadata={**self.fields.get("metadata", {}), **metadata})

    def with_experiment_type(self, kind: ExperimentType | str) -> Self:
        """Set what it is for."""
        return self.with_fields(experiment_type=kind)

    def with_recipe(self, recipe: str) -> Self:
        """Name the registered recipe that makes it."""
        return self.with_fields(recipe=recipe)

    def with_workflow(self, workflow: str) -> Self:
        """Name the registered workflow whose nodes the pipeline holds."""
        return self.with_fields(workflow=workflow)

    def with_backend(self, backend: BackendRef | str) -> Self:
        """Set the manifest, by name or with adapters and options."""
        return self.with_fields(backend={"manifest": backend} if isinstance(backend, str) else backend)

    def with_model(self, model: ModelRef | str) -> Self:
        """Set the model, by id or as a reference."""
        return self.with_fields(model={"id": model} if isinstance(model, str) else model)

    def with_model_version(self, version: str) -> Self:
        """Set the version of the model that was set before."""
        model = self.fields.get("model", {})
        known = model.model_dump() if isinstance(model, ModelRef) else model
        return self.with_fields(model={**known, "version": version})

    def with_dataset(self, dataset: DatasetRef | str) -> Self:
        """Set the data to train on, by id or as a reference."""
        return self.with_fields(dataset={"id": dataset} if isinstance(dataset, str) else dataset)

    def with_eval_dataset(self, dataset: DatasetRef | str) -> Self:
        """Set the data to evaluate on, by id or as a reference."""
        return self.with_fields(eval_dataset={"id": dataset} if isinstance(dataset, str) else dataset)

    def with_training_config(self, training: TrainingConfig) -> Self:
        """Set how to train."""
        return self.with_fields(training=training)

    def with_settings(self, **settings: Any) -> Self:
        """Add settings that the workflow's stages read."""
        return self.with_fields(settings={**self.fields.get("settings", {}), **settings})

    def with_seed(self, seed: int) -> Self:
        """Set the seed."""
        return self.with_fields(seed=seed)

    def with_baseline(self, baseline: str) -> Self:
        """Name the run or experiment to compare with."""
        return self.with_fields(baseline=baseline)

    def with_ensemble(self, ensemble: EnsembleConfig) -> Self:
        """Ask several models."""
        return self._reliable("ensemble", ensemble)

    def with_hedging(self, hedging: HedgingConfig) -> Self:
        """Send backup requests."""
        return self._reliable("hedging", hedging)

    def with_stats(self, stats: StatsConfig) -> Self:
        """Set how differences are tested."""
        return self._reliable("stats", stats)

    def with_fairness(self, fairness: FairnessConfig) -> Self:
        """Compare groups."""
        return self._reliable("fairness", fairness)

    def with_guardrails(self, guardrails: GuardrailConfig) -> Self:
        """Look for what should not be in prompts and answers."""
        return self._reliable("guardrails", guardrails)

    def with_feedback(self, feedback: FeedbackConfig) -> Self:
        """Collect feedback."""
        return self._reliable("feedback", feedback)

    def add_stage(self, name: str, *, label: str | None = None, **options: Any) -> Self:
        """Put a stage at the end of the pipeline."""
        return self._and("pipeline", {"kind": "stage", "name": name, "label": label, "options": options})

    def add_node(self, node: PipelineNode) -> Self:
        """Put any node at the end of the pipeline: a stage, a loop, a choice, branches."""
        return self._and("pipeline", node)

    def add_output(self, output: OutputSpec | str) -> Self:
        """Ask for a report, by name or with its formats."""
        return self._and("outputs", {"name": output} if isinstance(output, str) else output)

    def build(self) -> Experiment:
        """The experiment.

        Raises:
            ConfigError: with every problem at once.
        """
        return Experiment.parse(self.fields)
