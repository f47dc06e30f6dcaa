"""Building an experiment step by step."""

from __future__ import annotations

import pytest

from crucible_ir import (
    BackendRef,
    ConfigError,
    DatasetRef,
    EnsembleConfig,
    Experiment,
    ExperimentBuilder,
    FairnessConfig,
    FeedbackConfig,
    GuardrailConfig,
    HedgingConfig,
    LoopDef,
    ModelRef,
    OutputSpec,
    ReliabilityConfig,
    StageDef,
    StatsConfig,
    TrainingConfig,
)

START = ExperimentBuilder.start("x")


def test_every_step_gives_a_new_builder_and_leaves_the_old_one_as_it_was() -> None:
    one = START.add_stage("a")
    two = one.add_stage("b").with_seed(3)
    assert one.build() == Experiment(id="x", pipeline=(StageDef(name="a"),))
    assert two.build().seed == 3
    assert [node.name for node in two.build().pipeline] == ["a", "b"]  # type: ignore[union-attr]
    assert dict(START.fields) == {"id": "x"}


def test_a_builder_cannot_be_changed_in_place() -> None:
    with pytest.raises(TypeError):
        START.fields["id"] = "y"  # type: ignore[index]
    with pytest.raises(AttributeError):
        START.fields = {}  # type: ignore[misc]


def test_one_builder_can_be_taken_two_ways() -> None:
    base = START.add_stage("a").with_metadata(shared=1)
    left, right = base.with_metadata(side="left").build(), base.add_stage("b").build()
    assert (left.metadata, right.metadata) == ({"shared": 1, "side": "left"}, {"shared": 1})
    assert (len(left.pipeline), len(right.pipeline)) == (1, 2)


def test_stages_stand_in_the_order_in_which_they_were_added() -> None:
    builder = START
    for name in "abcdefg":
        builder = builder.add_stage(name)
    assert [node.name for node in builder.build().pipeline] == list("abcdefg")  # type: ignore[union-attr]


def test_every_part_of_an_experiment_can_be_set() -> None:
    built = (
        START.with_description("words")
        .with_owner("ann")
        .with_tags("one")
        .with_tags("two", "three")
        .with_experiment_type("comparison")
        .with_recipe("sl_basic")
        .with_workflow("supervised")
        .with_backend(BackendRef(manifest="dev"))
        .with_model("tiny")
        .with_model_version("1.2.3")
        .with_dataset("train.jsonl")
        .with_eval_dataset(DatasetRef(id="test.jsonl"))
        .with_training_config(TrainingConfig(epochs=2))
        .with_settings(renderer="llama3")
        .with_settings(max_length=8)
        .with_baseline("run-1")
        .with_ensemble(EnsembleConfig())
        .with_hedging(HedgingConfig())
        .with_stats(StatsConfig(alpha=0.01))
        .with_fairness(FairnessConfig())
        .with_guardrails(GuardrailConfig())
        .with_feedback(FeedbackConfig())
        .add_stage("a", label="first", size=3)
        .add_node(LoopDef(name="l", over="n", body=(StageDef(name="b"),)))
        .add_output("report")
        .add_output(OutputSpec(name="table", formats=("json",)))
        .build()
    )
    assert built == Experiment(
        id="x",
        description="words",
        owner="ann",
        tags=("one", "two", "three"),
        experiment_type="comparison",  # type: ignore[arg-type]
        recipe="sl_basic",
        workflow="supervised",
        backend=BackendRef(manifest="dev"),
        model=ModelRef(id="tiny", version="1.2.3"),
        dataset=DatasetRef(id="train.jsonl"),
        eval_dataset=DatasetRef(id="test.jsonl"),
        training=TrainingConfig(epochs=2),
        settings={"renderer": "llama3", "max_length": 8},
        baseline="run-1",
        reliability=ReliabilityConfig(
            ensemble=EnsembleConfig(),
            hedging=HedgingConfig(),
            stats=StatsConfig(alpha=0.01),
            fairness=FairnessConfig(),
            guardrails=GuardrailConfig(),
            feedback=FeedbackConfig(),
        ),
        pipeline=(
            StageDef(name="a", label="first", options={"size": 3}),
            LoopDef(name="l", over="n", body=(StageDef(name="b"),)),
        ),
        outputs=(OutputSpec(name="report"), OutputSpec(name="table", formats=("json",))),
    )


def test_the_version_goes_onto_the_model_that_was_set() -> None:
    built = START.add_stage("a").with_model(ModelRef(id="m", uri="u")).with_model_version("2.0.0").build()
    assert built.model == ModelRef(id="m", uri="u", version="2.0.0")
    assert START.with_backend("prod").add_stage("a").build().backend == BackendRef(manifest="prod")


def test_build_names_every_problem_at_once() -> None:
    broken = ExperimentBuilder.start("").with_seed(-1).with_fields(sed=1).add_stage("a:b")
    with pytest.raises(ConfigError) as caught:
        broken.build()
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"id", "seed", "sed", "pipeline[0].name"}


def test_an_experiment_without_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="pipeline: missing"):
        START.build()
