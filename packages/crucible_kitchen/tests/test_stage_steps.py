"""begin_epoch, begin_step, forward_backward, optim_step, log_metrics: one step at a time, one step ahead."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import OptimizerSpec, ScheduleSpec, ServiceError
from crucible_kitchen.stages.begin_epoch import BeginEpoch
from crucible_kitchen.stages.begin_step import BeginStep
from crucible_kitchen.stages.forward_backward import ForwardBackward
from crucible_kitchen.stages.keys import (
    BATCH,
    BATCHES,
    CHECKPOINT_DUE,
    CUMULATIVE,
    EPOCH,
    EVALUATION_DUE,
    EXAMPLES,
    FORWARD_BACKWARD,
    IN_FLIGHT,
    LEARNING_RATE,
    OPTIM_STEPS,
    PENDING_METRICS,
    SESSION,
    STEP,
    TOTAL_STEPS,
    USED_PASSES,
)
from crucible_kitchen.stages.log_metrics import LogMetrics
from crucible_kitchen.stages.optim_step import OptimStep
from crucible_testing.backend import BigramBackend
from crucible_testing.bench import StageBench, toy_experiment
from crucible_train.schedules import lr_multiplier

UNIFORM = math.log(257)
"""Loss per token of a table of zeros."""


def bench_of(folder: Path, backend: BigramBackend | None = None, **settings: Any) -> StageBench:
    adapters = {"training_backend": backend} if backend else {}
    return StageBench(folder / "run", toy_experiment(folder, **settings), adapters=adapters)


def ready(folder: Path, backend: BigramBackend | None = None, **settings: Any) -> StageBench:
    """A bench before the first step of the first epoch, over a table of zeros."""
    bench = bench_of(folder, backend, **settings)
    bench.ready()
    table = (backend or bench.backend).clients[0].table
    table.weights = np.zeros_like(table.weights)
    begin_epoch(bench, 0)
    return bench


def begin_epoch(bench: StageBench, epoch: int) -> None:
    bench.turn("epochs", epoch)
    bench.run(BeginEpoch)


def steps(bench: StageBench, count: int) -> None:
    for index in range(count):
        bench.turn("batches", index, bench[BATCHES][index])
        bench.step()


# --- the epoch -------------------------------------------------------------------------------------------------


def test_an_epoch_takes_the_rows_in_its_own_order(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, batch_size=3, epochs=2)
    bench[EXAMPLES], bench[TOTAL_STEPS] = [object()] * 10, 6  # type: ignore[list-item]
    for epoch in (0, 1):
        begin_epoch(bench, epoch)
        order = np.random.default_rng(epoch).permutation(10)
        assert bench[EPOCH] == epoch
        assert [batch.tolist() for batch in bench[BATCHES]] == [order[i : i + 3].tolist() for i in (0, 3, 6)]


def test_the_last_partial_batch_is_kept_when_asked(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, batch_size=4, drop_last=False)
    bench[EXAMPLES], bench[TOTAL_STEPS] = [object()] * 10, 3  # type: ignore[list-item]
    begin_epoch(bench, 0)
    assert [len(batch) for batch in bench[BATCHES]] == [4, 4, 2]


@given(count=st.integers(1, 30), batch=st.integers(1, 8), epochs=st.integers(1, 4), total=st.integers(1, 99))
def test_all_epochs_together_have_exactly_the_steps_of_the_run(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, epochs: int, total: int
) -> None:
    batch = min(batch, count)
    bench = bench_of(tmp_path_factory.getbasetemp() / "epochs", batch_size=batch, epochs=epochs)
    total = min(total, epochs * (count // batch))
    bench[EXAMPLES], bench[TOTAL_STEPS] = [object()] * count, total  # type: ignore[list-item]
    seen = 0
    for epoch in range(epochs):
        begin_epoch(bench, epoch)
        seen += len(bench[BATCHES])
    assert seen == total


# --- what is due -----------------------------------------------------------------------------------------------


def due(folder: Path, total: int, **training: Any) -> tuple[list[int], list[int]]:
    bench = bench_of(folder, **training)
    bench[EXAMPLES], bench[TOTAL_STEPS] = [], total
    evaluated, saved = [], []
    for step in range(total):
        bench[STEP] = step
        bench.turn("batches", step, np.array([], dtype=np.int64))
        bench.run(BeginStep)
        if bench[EVALUATION_DUE]:
            evaluated.append(step)
        if bench[CHECKPOINT_DUE]:
            saved.append(step + 1)
    return evaluated, saved


@pytest.mark.parametrize(
    ("every", "evaluated", "saved"),
    [
        (0, [], []),
        (1, [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (2, [0, 2, 4], [2, 4]),
        (4, [0, 4], [4]),
        (9, [0], []),
    ],
)
def test_evaluation_comes_before_every_nth_step_and_a_checkpoint_after_it_but_the_last(
    tmp_path: Path, every: int, evaluated: list[int], saved: list[int]
) -> None:
    assert due(tmp_path, 6, eval_every=every, save_every=every) == (evaluated, saved)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (ScheduleSpec(name="linear"), [0.4, 0.3, 0.2, 0.1]),
        (ScheduleSpec(name="constant"), [0.4, 0.4, 0.4, 0.4]),
        (ScheduleSpec(name="constant", warmup_steps=2), [0.0, 0.2, 0.4, 0.4]),
        (ScheduleSpec(name="cosine"), [0.4 * lr_multiplier("cosine", step, 4) for step in range(4)]),
    ],
)
def test_the_learning_rate_follows_the_schedule_over_the_whole_run(
    tmp_path: Path, schedule: ScheduleSpec, rates: list[float]
) -> None:
    bench = bench_of(tmp_path, learning_rate=0.4, schedule=schedule)
    bench[EXAMPLES], bench[TOTAL_STEPS] = [], 4
    found = []
    for step in range(4):
        bench[STEP] = step
        bench.turn("batches", step, np.array([], dtype=np.int64))
        bench.run(BeginStep)
        found.append(bench[LEARNING_RATE])
    assert found == pytest.approx(rates)


def test_a_step_takes_the_examples_of_its_batch_and_an_empty_row(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench[PENDING_METRICS] = {"left": 1.0}
    bench.turn("batches", 0, np.array([3, 0]))
    bench.run(BeginStep)
    assert bench[BATCH] == [bench[EXAMPLES][3].datum, bench[EXAMPLES][0].datum]
    assert bench[PENDING_METRICS] == {}


# --- submission ------------------------------------------------------------------------------------------------


def test_with_one_step_ahead_the_next_step_is_submitted_before_this_one_is_awaited(tmp_path: Path) -> None:
    bench = ready(tmp_path, submit_ahead=1)
    steps(bench, 3)
    assert bench.backend.journal == [
        "submit forward_backward 0",
        "submit optim_step 0",
        "submit forward_backward 1",
        "submit optim_step 1",
        "await forward_backward 0",
        "await optim_step 0",
        "submit forward_backward 2",
        "submit optim_step 2",
        "await forward_backward 1",
        "await optim_step 1",
    ]


def test_with_none_ahead_each_step_is_awaited_before_the_next_is_submitted(tmp_path: Path) -> None:
    bench = ready(tmp_path, submit_ahead=0)
    steps(bench, 2)
    assert bench.backend.journal == [
        "submit forward_backward 0",
        "submit optim_step 0",
        "await forward_backward 0",
        "await optim_step 0",
        "submit forward_backward 1",
        "submit optim_step 1",
        "await forward_backward 1",
        "await optim_step 1",
    ]


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_how_far_ahead_changes_no_number(tmp_path: Path, ahead: int) -> None:
    plain, bench = ready(tmp_path / "plain", submit_ahead=0), ready(tmp_path / "ahead", submit_ahead=ahead)
    for one in (plain, bench):
        steps(one, 4)
        one.settle()
    rows = [(row.step, row.metrics) for row in bench.metrics.read("run")]
    assert rows == [(row.step, row.metrics) for row in plain.metrics.read("run")]
    assert [step for step, _ in rows] == [0, 1, 2, 3]


def test_at_most_so_many_steps_are_in_flight(tmp_path: Path) -> None:
    bench = ready(tmp_path, submit_ahead=2)
    steps(bench, 3)
    assert [step.step for step in bench[IN_FLIGHT].steps] == [1, 2]
    assert [row.step for row in bench.metrics.read("run")] == [0]


def test_micro_batches_are_submitted_one_by_one_and_add_up_to_the_same_step(tmp_path: Path) -> None:
    whole, parts = ready(tmp_path / "whole"), ready(tmp_path / "parts", micro_batch_size=3)
    for bench in (whole, parts):
        steps(bench, 1)
        bench.settle()
    assert parts.backend.journal[:3] == [
        "submit forward_backward 0",
        "submit forward_backward 1",
        "submit optim_step 0",
    ]
    (row,), (other) = whole.metrics.read("run"), parts.metrics.read("run")
    assert other[0].metrics == pytest.approx(row.metrics)
    np.testing.assert_allclose(
        parts.backend.clients[0].table.weights, whole.backend.clients[0].table.weights, atol=1e-9
    )


def test_the_optimiser_gets_the_experiments_settings(tmp_path: Path) -> None:
    optimizer = OptimizerSpec(
        learning_rate=0.3, beta1=0.5, beta2=0.6, eps=1e-3, weight_decay=0.25, grad_clip_norm=0.125
    )
    experiment = toy_experiment(tmp_path)
    assert experiment.training is not None
    training = experiment.training.model_copy(update={"optimizer": optimizer})
    bench = StageBench(tmp_path / "run", experiment.model_copy(update={"training": training}))
    bench.ready()
    seen: list[Any] = []

    class Session:
        def optim_step(self, params: Any) -> None:
            seen.append(params)

    bench[SESSION] = Session()  # type: ignore[assignment]
    bench[LEARNING_RATE], bench[OPTIM_STEPS], bench[USED_PASSES] = 0.15, [], 0
    bench[FORWARD_BACKWARD] = [object()]  # type: ignore[list-item]
    bench.run(OptimStep)
    (params,) = seen
    assert (params.learning_rate, params.beta1, params.beta2) == (0.15, 0.5, 0.6)
    assert (params.eps, params.weight_decay, params.grad_clip_norm) == (1e-3, 0.25, 0.125)
    assert len(bench[OPTIM_STEPS]) == 1
    bench.run(OptimStep)
    assert len(seen) == 1  # no pass was submitted since, so there is no gradient to step with


def test_the_loss_and_its_settings_are_handed_on(tmp_path: Path) -> None:
    bench = ready(tmp_path, loss_config={"clip": 0.2})
    seen: list[Any] = []

    class Session:
        def forward_backward(self, data: Any, loss: Any, config: Any) -> None:
            seen.append((len(data), loss, config))

    bench[SESSION] = Session()  # type: ignore[assignment]
    bench[BATCH], bench[FORWARD_BACKWARD] = [bench[EXAMPLES][0].datum], []
    bench.run(ForwardBackward)
    assert seen == [(1, "cross_entropy", {"clip": 0.2})]


# --- the row ---------------------------------------------------------------------------------------------------


def test_the_first_row_is_the_one_worked_out_by_hand(tmp_path: Path) -> None:
    """Uniform over 257 tokens: ln 257 nats a token, and log2 257 bits a byte, as every token is a byte."""
    bench = ready(tmp_path, batch_size=4, learning_rate=0.2)
    steps(bench, 1)
    bench.settle()
    (row,) = bench.metrics.read("run")
    datums = [bench[EXAMPLES][index].datum for index in bench[BATCHES][0]]
    tokens = float(sum(datum.model_input.length for datum in datums))
    assert set(row.metrics) == {
        "epoch",
        "progress",
        "learning_rate",
        "num_sequences",
        "num_tokens",
        "num_loss_tokens",
        "tokens/cumulative/trained",
        "train_mean_nll",
        "train_mean_bpb",
        "unclipped_grad_l2:mean",
    }
    assert row.metrics["epoch"] == 0
    assert row.metrics["progress"] == 1 / 4
    assert row.metrics["learning_rate"] == 0.2
    assert row.metrics["num_sequences"] == 4
    assert row.metrics["num_tokens"] == row.metrics["tokens/cumulative/trained"] == tokens
    assert row.metrics["num_loss_tokens"] == pytest.approx(4, abs=1e-6)
    assert row.metrics["train_mean_nll"] == pytest.approx(UNIFORM, rel=1e-6)
    assert row.metrics["train_mean_bpb"] == pytest.approx(math.log2(257), rel=1e-6)
    assert row.time_s is not None


def test_tokens_add_up_over_the_steps(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    steps(bench, 4)
    bench.settle()
    rows = [row.metrics for row in bench.metrics.read("run")]
    totals = np.cumsum([row["num_tokens"] for row in rows])
    assert [row["tokens/cumulative/trained"] for row in rows] == totals.tolist()
    assert bench[CUMULATIVE] == {"tokens": totals[-1]}
    assert rows[-1]["progress"] == 1.0


def test_metrics_that_wait_go_into_the_row_of_their_step(tmp_path: Path) -> None:
    bench = ready(tmp_path, submit_ahead=0)
    bench.turn("batches", 0, bench[BATCHES][0])
    bench.run(BeginStep)
    bench[PENDING_METRICS] = {"test/nll": 1.5}
    for kind in (ForwardBackward, OptimStep, LogMetrics):
        bench.run(kind)
    steps(bench, 1)
    rows = [row.metrics for row in bench.metrics.read("run")]
    assert rows[0]["test/nll"] == 1.5
    assert "test/nll" not in rows[1]


def test_listeners_see_each_row_once_it_is_stored(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    steps(bench, 3)
    assert [data["step"] for what, data in bench.shown if what == "metrics"] == [0, 1]
    bench.settle()
    assert [data["step"] for what, data in bench.shown if what == "metrics"] == [0, 1, 2]


def test_a_step_that_fails_is_not_logged_and_what_came_before_is(tmp_path: Path) -> None:
    bench = ready(tmp_path, BigramBackend(fail={"forward_backward": 1}))
    steps(bench, 2)
    with pytest.raises(ServiceError, match="call 1 was to fail"):
        bench.settle()
    assert [row.step for row in bench.metrics.read("run")] == [0]
    assert [step.step for step in bench[IN_FLIGHT].steps] == [1]
