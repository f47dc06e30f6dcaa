"""evaluate_nll and sample_texts: looking at the present weights without moving them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import DatasetRef, DatasetSnapshot, ExampleResult, Row, TrainError
from crucible_kitchen.stages.begin_epoch import BeginEpoch
from crucible_kitchen.stages.build_datums import BuildDatums
from crucible_kitchen.stages.evaluate_nll import EvaluateNll
from crucible_kitchen.stages.forward_backward import ForwardBackward
from crucible_kitchen.stages.keys import (
    BATCH,
    BATCHES,
    EVAL_DATASET,
    EVAL_EXAMPLES,
    EXAMPLES,
    FORWARD_BACKWARD,
    IN_FLIGHT,
    LAST_EVALUATION,
    PENDING_METRICS,
    SESSION,
    STEP,
)
from crucible_kitchen.stages.sample_texts import SampleTexts
from crucible_testing.bench import StageBench, chat_rows, toy_experiment
from crucible_train.types import AdamParams


def ready(folder: Path, held_out: list[Row] | None = None, **settings: Any) -> StageBench:
    bench = StageBench(folder / "run", toy_experiment(folder, **settings))
    bench.ready()
    if held_out is not None:
        bench[EVAL_DATASET] = DatasetSnapshot(ref=DatasetRef(id="held"), rows=held_out)
        bench.run(BuildDatums)
    return bench


def flatten(bench: StageBench) -> None:
    table = bench.backend.clients[0].table
    table.weights = np.zeros_like(table.weights)


def lines_of(bench: StageBench, name: str) -> list[dict[str, Any]]:
    path = bench.scope.run_dir / "results" / name
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- held-out loss ---------------------------------------------------------------------------------------------


def test_the_loss_is_the_one_worked_out_by_hand(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    flatten(bench)
    bench.run(EvaluateNll)
    assert set(bench[LAST_EVALUATION]) == {"test/nll", "test/bpb"}
    assert bench[LAST_EVALUATION]["test/nll"] == pytest.approx(math.log(257), rel=1e-6)
    assert bench[LAST_EVALUATION]["test/bpb"] == pytest.approx(math.log2(257), rel=1e-6)


def test_every_example_gets_a_record(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    flatten(bench)
    bench[STEP] = 7
    bench.run(EvaluateNll)
    records = [ExampleResult.model_validate(line) for line in lines_of(bench, "nll_000007.jsonl")]
    assert [record.example_id for record in records] == [e.example_id for e in bench[EVAL_EXAMPLES]]
    assert {(r.metric, r.step, r.evaluator, r.higher_is_better, r.seed) for r in records} == {
        ("nll", 7, "evaluate_nll", False, 0)
    }
    assert [r.score for r in records] == pytest.approx([math.log(257)] * 6, rel=1e-6)
    (event,) = bench.of("evaluation.completed")
    assert (event["step"], event["examples"], event["results"]) == (7, 6, "results/nll_000007.jsonl")


def test_gradients_and_weights_are_left_as_they_are(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench[BATCH], bench[FORWARD_BACKWARD] = [example.datum for example in bench[EXAMPLES][:4]], []
    bench.run(ForwardBackward)
    table = bench.backend.clients[0].table
    weights, gradient = table.weights.copy(), table.gradient.copy()
    assert np.any(gradient)
    bench.run(EvaluateNll)
    np.testing.assert_array_equal(table.weights, weights)
    np.testing.assert_array_equal(table.gradient, gradient)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(tmp_path: Path, size: int) -> None:
    bench = ready(tmp_path)
    bench.run(EvaluateNll)
    whole, lines = bench[LAST_EVALUATION], lines_of(bench, "nll_000000.jsonl")
    bench.run(EvaluateNll, batch_size=size)
    assert bench[LAST_EVALUATION] == pytest.approx(whole)
    assert lines_of(bench, "nll_000000.jsonl") == lines
    told = [data["done"] for what, data in bench.shown if what == "evaluating"]
    assert told[-1] == 6
    assert sum(line.startswith("submit forward ") for line in bench.backend.journal) == 1 + math.ceil(
        6 / size
    )


def test_within_a_step_the_figures_wait_for_its_row(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench[PENDING_METRICS] = {"other": 1.0}
    bench.run(EvaluateNll)
    assert bench[PENDING_METRICS] == {"other": 1.0} | bench[LAST_EVALUATION]
    assert bench.metrics.read("run") == []


def test_figures_of_one_step_stand_beside_each_other_and_those_of_an_older_one_go(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(EvaluateNll)
    nll = bench[LAST_EVALUATION]
    bench[LAST_EVALUATION] = nll | {"test/other": 1.0}
    bench.run(EvaluateNll)
    assert bench[LAST_EVALUATION] == nll | {"test/other": 1.0}
    bench[STEP] = 1
    bench.run(EvaluateNll)
    assert bench[LAST_EVALUATION] == nll


def test_standing_alone_they_get_a_row_of_their_own(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench[STEP] = 4
    bench.run(EvaluateNll, standalone=True)
    (row,) = bench.metrics.read("run")
    assert (row.step, row.metrics) == (4, bench[LAST_EVALUATION])
    assert [dict(data)["step"] for what, data in bench.shown if what == "metrics"] == [4]
    assert PENDING_METRICS.name not in bench.state.values


@pytest.mark.parametrize("kind", [EvaluateNll, SampleTexts])
def test_steps_in_flight_are_awaited_first(tmp_path: Path, kind: Any) -> None:
    bench = ready(tmp_path)
    bench.turn("epochs", 0)
    bench.run(BeginEpoch)
    bench.turn("batches", 0, bench[BATCHES][0])
    bench.step()
    assert len(bench[IN_FLIGHT].steps) == 1
    bench.run(kind, **({"max_tokens": 8} if kind is SampleTexts else {}))
    journal = bench.backend.journal
    own = next(n for n, line in enumerate(journal) if line.startswith(("submit forward ", "submit sampling")))
    assert journal.index("await optim_step 0") < own
    assert [row.step for row in bench.metrics.read("run")] == [0]


def test_examples_without_a_trained_token_have_no_loss_and_no_record(tmp_path: Path) -> None:
    cut: Row = {"messages": [{"role": "user", "content": "x" * 80}, {"role": "assistant", "content": "y"}]}
    bench = ready(tmp_path, [*chat_rows(3), cut])
    bench.run(EvaluateNll)
    assert len(bench[EVAL_EXAMPLES]) == 4
    assert len(lines_of(bench, "nll_000000.jsonl")) == 3
    assert math.isfinite(bench[LAST_EVALUATION]["test/nll"])


def test_a_model_that_went_astray_has_a_loss_that_says_so(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    table = bench.backend.clients[0].table
    table.weights = np.full_like(table.weights, np.nan)
    bench.run(EvaluateNll)
    assert math.isnan(bench[LAST_EVALUATION]["test/nll"])
    path = bench.scope.run_dir / "results" / "nll_000000.jsonl"
    records = [ExampleResult.model_validate_json(line) for line in path.read_text().splitlines()]
    assert [math.isnan(record.score) for record in records] == [True] * 6


def test_without_held_out_examples_nothing_happens(tmp_path: Path) -> None:
    bench = ready(tmp_path, held_out=None)
    bench[EVAL_EXAMPLES] = []
    before = list(bench.events)
    bench.run(EvaluateNll)
    bench.run(SampleTexts)
    assert bench.events == before
    assert bench.backend.journal == []


def test_evaluation_that_was_asked_for_needs_held_out_data(tmp_path: Path) -> None:
    (problem,) = StageBench(tmp_path / "run", toy_experiment(tmp_path, held_out=0, eval_every=5)).check(
        EvaluateNll
    )
    assert problem == (
        "training.eval_every: evaluation every 5 steps without a held-out dataset; "
        "name an eval_dataset, or set eval_every=0"
    )
    assert StageBench(tmp_path / "run", toy_experiment(tmp_path, held_out=0)).check(EvaluateNll) == []
    assert StageBench(tmp_path / "run", toy_experiment(tmp_path, eval_every=5)).check(EvaluateNll) == []


# --- samples ---------------------------------------------------------------------------------------------------


def test_the_first_held_out_prompts_are_answered(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SampleTexts, prompts=2, max_tokens=8)
    lines = lines_of(bench, "samples_000000.jsonl")
    assert [line["example_id"] for line in lines] == [e.example_id for e in bench[EVAL_EXAMPLES]][:2]
    assert lines[0]["prompt"] == [{"role": "user", "content": "q16"}]
    assert lines[0]["reference"] == {"role": "assistant", "content": "aba"}
    assert lines[0]["answer"]["role"] == "assistant"
    assert lines[0]["step"] == 0
    (event,) = bench.of("evaluation.completed")
    assert (event["evaluator"], event["examples"]) == ("sample_texts", 2)


def test_what_was_learned_is_answered(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    table = bench.backend.clients[0].table
    table.weights = np.full_like(table.weights, -9.0)
    for present, following in zip(b": xyz\n\nU", b" xyz\n\nUs", strict=True):
        table.weights[present, following] = 9.0
    table.weights[ord("\n"), ord("\n")] = 8.0
    bench.run(SampleTexts, prompts=1, max_tokens=5)
    (line,) = lines_of(bench, "samples_000000.jsonl")
    assert line["answer"]["content"].startswith("xyz")


def test_at_a_temperature_the_same_seed_gives_the_same_answers(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    texts = []
    for _ in range(2):
        bench.run(SampleTexts, temperature=1.0, max_tokens=8)
        texts.append(lines_of(bench, "samples_000000.jsonl"))
    assert texts[0] == texts[1]
    assert len({json.dumps(line["answer"]) for line in texts[0]}) == 3


def test_prompts_that_leave_no_room_or_end_with_no_answer_are_passed_over(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"messages": [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "assistant", "content": "alone"}]},
        {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
        *chat_rows(1),
    ]
    bench = ready(tmp_path, rows, max_length=64)
    bench.run(SampleTexts, prompts=3, max_tokens=30)
    (line,) = lines_of(bench, "samples_000000.jsonl")
    assert line["prompt"] == [{"role": "user", "content": "q0"}]


def test_a_prompt_that_just_leaves_room_is_answered(tmp_path: Path) -> None:
    length = len("User: q0\n\nAssistant:")
    for room, answered in ((length, True), (length - 1, False)):
        bench = ready(tmp_path / str(room), chat_rows(1), max_length=64)
        bench.run(SampleTexts, prompts=3, max_tokens=64 - room)
        assert bool(bench.of("evaluation.completed")) is answered


def test_samplers_are_closed(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    made: list[Any] = []
    opened = bench[SESSION].sampling_client

    def sampling_client() -> Any:
        handle = opened()
        made.append(handle.result())
        return handle

    bench[SESSION].sampling_client = sampling_client  # type: ignore[method-assign]
    bench.run(SampleTexts, max_tokens=8)
    assert [sampler.closed for sampler in made] == [True]


def test_secrets_do_not_reach_the_file(tmp_path: Path) -> None:
    row: Row = {
        "messages": [{"role": "user", "content": "hunter2"}, {"role": "assistant", "content": "hunter2"}]
    }
    bench = ready(tmp_path, [row])
    bench.run(SampleTexts, max_tokens=4)
    text = (bench.scope.run_dir / "results" / "samples_000000.jsonl").read_text()
    assert "hunter2" not in text
    assert "[secret]" in text


def test_sampling_moves_nothing(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    table = bench.backend.clients[0].table
    before = table.weights.copy()
    bench.run(SampleTexts, max_tokens=8)
    with pytest.raises(TrainError, match="no gradients"):
        bench[SESSION].optim_step(AdamParams(learning_rate=0.5)).result()
    np.testing.assert_array_equal(table.weights, before)
