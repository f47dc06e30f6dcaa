"""build_datums: every conversation rendered or accounted for, and the number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import DataError, DatasetRef, DatasetSnapshot, Row
from crucible_kitchen.stages.build_datums import BuildDatums
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    DATASET,
    EPOCHS,
    EVAL_DATASET,
    EVAL_EXAMPLES,
    EXAMPLES,
    RENDERER,
    TOTAL_STEPS,
)
from crucible_testing.bench import StageBench, chat_rows, toy_experiment
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_train.renderers import get_renderer

TOOL = {"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]}


def snapshot(rows: list[Row]) -> DatasetSnapshot:
    return DatasetSnapshot(ref=DatasetRef(id="rows"), rows=rows)


def bench_of(
    folder: Path, rows: list[Row] | None = None, held_out: list[Row] | None = None, **training: Any
) -> StageBench:
    bench = StageBench(folder / "run", toy_experiment(folder, **training))
    bench[DATASET] = snapshot(chat_rows(10) if rows is None else rows)
    bench[EVAL_DATASET] = None if held_out is None else snapshot(held_out)
    bench[RENDERER] = get_renderer("role_colon", ByteTokenizer())
    return bench


def test_an_example_holds_its_tokens_its_weights_and_its_conversation(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, [{"messages": chat_rows(1)[0]["messages"]}], batch_size=1)
    bench.run(BuildDatums)
    (example,) = bench[EXAMPLES]
    text = "User: q0\n\nAssistant: aba\n\nUser:"
    datum = example.datum
    assert bytes(datum.model_input.to_ints()) == text[:-1].encode()
    assert bytes(datum.target_tokens.tolist()) == text[1:].encode()
    trained = datum.target_tokens[datum.weights > 0]
    assert bytes(trained.tolist()) == b" aba\n\nUser:"
    assert datum.num_loss_tokens == pytest.approx(1.0)
    assert [message["content"] for message in example.messages] == ["q0", "aba"]
    assert example.example_id.startswith("sha256:")


def test_without_reduction_every_trained_token_weighs_one(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, chat_rows(1), batch_size=1)
    bench.run(BuildDatums, reduction="none")
    assert bench[EXAMPLES][0].datum.num_loss_tokens == 11


def test_the_loss_goes_where_it_was_told(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, chat_rows(1), batch_size=1)
    bench.run(BuildDatums, train_on_what="all_user_and_system_messages", reduction="none")
    datum = bench[EXAMPLES][0].datum
    assert b"q0" in bytes(datum.target_tokens[datum.weights > 0].tolist())


def test_held_out_rows_become_examples_of_their_own(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, held_out=chat_rows(3, first=50))
    bench.run(BuildDatums)
    assert len(bench[EXAMPLES]) == 10
    assert len(bench[EVAL_EXAMPLES]) == 3
    bench = bench_of(tmp_path)
    bench.run(BuildDatums)
    assert list(bench[EVAL_EXAMPLES]) == []


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 12),
    epochs=st.integers(1, 4),
    limit=st.none() | st.integers(1, 60),
    drop_last=st.booleans(),
)
def test_the_number_of_steps_is_that_of_the_batches_but_no_more_than_was_asked(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    batch: int,
    epochs: int,
    limit: int | None,
    drop_last: bool,
) -> None:
    batch = min(batch, count)
    folder = tmp_path_factory.getbasetemp() / "steps"
    bench = bench_of(
        folder, chat_rows(count), batch_size=batch, epochs=epochs, max_steps=limit, drop_last=drop_last
    )
    bench.run(BuildDatums)
    per_epoch = count // batch if drop_last else (count + batch - 1) // batch
    expected = per_epoch * epochs if limit is None else min(limit, per_epoch * epochs)
    assert bench[TOTAL_STEPS] == expected
    assert bench[EPOCHS] == epochs
    assert bench.of("run.progress") == [
        {"total_steps": expected, "epochs": epochs, "examples": count, "batch_size": batch}
    ]


@pytest.mark.parametrize(("bound", "role"), [(33, None), (32, "held_out"), (31, "train"), (None, None)])
def test_examples_longer_than_the_backends_model_reads_are_found_before_any_step(
    tmp_path: Path, bound: int | None, role: str | None
) -> None:
    bench = bench_of(tmp_path, chat_rows(3), held_out=chat_rows(1, first=50), batch_size=1)
    bench.backend.longest = lambda _: bound  # type: ignore[attr-defined]
    if role is None:
        bench.run(BuildDatums)
        lengths = [one.datum.model_input.length for key in (EXAMPLES, EVAL_EXAMPLES) for one in bench[key]]
        assert (max(lengths[:3]), lengths[3]) == (32, 33)
        return
    with pytest.raises(DataError, match=f"longest of the {role} examples") as caught:
        bench.run(BuildDatums)
    assert f"set max_length={bound}, which cuts longer ones" in str(caught.value)


def test_totals_of_a_resumed_run_go_on(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.run(BuildDatums)
    assert bench[CUMULATIVE] == {}
    bench[CUMULATIVE] = {"tokens": 12.0}
    bench.run(BuildDatums)
    assert bench[CUMULATIVE] == {"tokens": 12.0}


def test_a_row_that_cannot_be_rendered_stops_the_run_and_is_named(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, [*chat_rows(2), TOOL, *chat_rows(2)])
    with pytest.raises(DataError, match="rows, row 2 after ordering") as caught:
        bench.run(BuildDatums)
    assert "on_error=drop" in str(caught.value)


def test_with_drop_it_is_left_out_counted_and_said(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, [*chat_rows(4), TOOL, TOOL])
    bench.run(BuildDatums, on_error="drop")
    assert len(bench[EXAMPLES]) == 4
    (log,) = bench.of("log")
    assert (log["level"], log["message"], log["role"]) == ("warning", "2 rows left out", "train")
    assert "row 4 after ordering" in log["first"]


def test_a_dataset_of_which_no_row_can_be_rendered_is_an_error(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, [TOOL])
    with pytest.raises(DataError, match="no row could be rendered"):
        bench.run(BuildDatums, on_error="drop")


@pytest.mark.parametrize("on_error", ["raise", "drop"])
def test_a_row_without_messages_says_which_columns_it_has(tmp_path: Path, on_error: str) -> None:
    bench = bench_of(tmp_path, [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match="answer, question") as caught:
        bench.run(BuildDatums, on_error=on_error)
    assert "prompt_completion" in str(caught.value)


def test_examples_cut_before_their_answer_are_counted_in_a_warning(tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 80}, {"role": "assistant", "content": "y"}]}
    bench = bench_of(tmp_path, [*chat_rows(3), long], max_length=64)
    bench.run(BuildDatums)
    assert len(bench[EXAMPLES]) == 4
    (log,) = bench.of("log")
    assert log["message"].startswith("1 of 4 examples have no trained token left within max_length=64")


@pytest.mark.parametrize("role", ["train", "held_out"])
def test_when_all_are_cut_there_is_nothing_to_learn(tmp_path: Path, role: str) -> None:
    long: Row = {"messages": [{"role": "user", "content": "x" * 80}, {"role": "assistant", "content": "y"}]}
    train, held_out = ([long], None) if role == "train" else (chat_rows(4), [long, long])
    bench = bench_of(tmp_path, train, held_out, max_length=64, batch_size=1)
    with pytest.raises(DataError, match=f"{role} examples have no trained token left") as caught:
        bench.run(BuildDatums)
    assert "max_length" in str(caught.value)


def test_listeners_are_told_how_far_rendering_is(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, chat_rows(201), batch_size=1)
    bench.run(BuildDatums)
    told = [dict(data) for what, data in bench.shown if what == "rendering"]
    assert told == [{"role": "train", "done": 0, "of": 201}, {"role": "train", "done": 200, "of": 201}]
