"""What cannot be judged has no reward: it is recorded and counted, never a zero, and never the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import RunState
from crucible_testing.bench import plant_bigram
from crucible_testing.letter_runs import LetterRun, LetterRuns

HANGS = "10^{10^{10}}"
EXHAUSTS = "(x+y+1)^{2000}"
EVERYTHING = 100


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LetterRuns:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return LetterRuns(tmp_path)


def kept(left: LetterRun) -> list[dict[str, Any]]:
    """Every kept attempt, in order, with the number of its iteration."""
    return [
        {"step": int(name[5:11]), **json.loads(line)}
        for name, text in left.texts("rollouts").items()
        for line in text.splitlines()
    ]


def verdict_of(line: dict[str, Any]) -> str:
    return str(line["turns"][-1]["logs"]["verdict"])


@pytest.mark.parametrize("fault", ["timeout", "crash", "memory", "error"])
@pytest.mark.parametrize("parts", [0, 2])
def test_an_attempt_whose_judge_fails_is_recorded_counted_and_not_trained_on(
    runs: LetterRuns, fault: str, parts: int
) -> None:
    env = {"batches": 3, "held_out": 0, "answers": ["2+x", "x+1", fault]}
    options = {"evaluate": False, "log_groups": EVERYTHING, "stream_minibatches": parts}
    left = runs.run(env=env, options=options)
    assert left.record.state is RunState.COMPLETED
    lines = kept(left)
    assert len(lines) == 3 * 32
    for step, (_, metrics) in enumerate(left.rows):
        judged = [line["reward"] for line in lines if line["step"] == step and line["reward"] is not None]
        failed = [line for line in lines if line["step"] == step and verdict_of(line) == "cannot_judge"]
        assert 0 < len(failed) == metrics["env/all/cannot_judge"] == 32 - len(judged)
        assert all(line["reward"] is None for line in failed)
        assert {line["turns"][0]["logs"]["answer"] for line in failed} == {fault}
        assert metrics["env/all/reward/total"] == pytest.approx(np.mean(judged))
        assert metrics["env/all/correct"] == pytest.approx(np.mean(judged))
        input_tokens = len("User: q0\n\nAssistant:") + 1
        numbers = [line["turns"][0]["logs"]["question"] for line in lines if line["step"] == step]
        longer = sum(
            len(number) - 2
            for number, line in zip(numbers, (x for x in lines if x["step"] == step), strict=True)
            if line["reward"] is not None
        )
        assert metrics["tokens/trained"] == len(judged) * input_tokens + longer
    assert any("answers could not be judged and are left out" in message for message in left.said())


def test_attempts_that_could_not_be_judged_are_kept_beside_the_first_groups(runs: LetterRuns) -> None:
    env = {"batches": 1, "held_out": 0, "fails": {"2": "unjudged", "3": "unjudged"}}
    left = runs.run(env=env, options={"evaluate": False, "log_groups": 1})
    assert [line["group"] for line in kept(left)] == [0] * 8 + [2] * 8
    assert {verdict_of(line) for line in kept(left)[8:]} == {"cannot_judge"}
    assert [line["reward"] for line in kept(left)[8:]] == [None] * 8


def test_a_held_out_attempt_that_cannot_be_judged_has_no_record_and_is_counted(runs: LetterRuns) -> None:
    left = runs.run(env={"batches": 2, "held_out": 24, "answers": ["2+x", "x+1", "timeout"]}, eval_every=1)
    for step in (0, 1, 2):
        lines = left.texts("results")[f"accuracy_{step:06d}.jsonl"].splitlines()
        records = [json.loads(line) for line in lines]
        row = next(m for s, m in left.rows if s == step and "test/env/all/reward/total" in m)
        assert 0 < row["test/env/all/cannot_judge"] == 24 - len(records)
        assert {(r["score"], r["verdict"]) for r in records} <= {(1.0, "correct"), (0.0, "incorrect")}
        assert row["test/env/all/correct"] == pytest.approx(np.mean([r["score"] for r in records]))


@pytest.mark.parametrize(
    "options", [{}, {"num_substeps": 2}, {"stream_minibatches": 2}, {"kl_penalty_coef": 0.1}]
)
def test_an_iteration_in_which_nothing_could_be_judged_takes_no_step_and_the_run_goes_on(
    runs: LetterRuns, options: dict[str, Any]
) -> None:
    env = {"batches": 3, "held_out": 0, "fails": {str(n): "unjudged" for n in range(4, 8)}}
    chosen: dict[str, Any] = {"env": env, "options": {**options, "evaluate": False, "compute_post_kl": True}}
    left = runs.run(**chosen, save_every=1)
    assert left.record.state is RunState.COMPLETED
    (_, first), (_, second), (_, third) = left.rows
    assert (second["env/all/cannot_judge"], second["tokens/trained"]) == (32, 0)
    assert "env/all/reward/total" not in second
    learned = {"loss:sum", "optim/entropy", "unclipped_grad_l2:mean", "kl_pre_post_v2"}
    assert learned <= set(first)
    assert learned <= set(third)
    assert not learned & set(second)
    tables = [np.load(left.folder / "checkpoints" / f"step_{step:06d}" / "weights.npy") for step in (1, 2, 3)]
    assert np.array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[1], tables[2])
    assert runs.resumed(runs.stopped_at_checkpoint(2, **chosen, save_every=1)).same_as(left)


def test_a_run_in_which_nothing_at_all_could_be_judged_learns_nothing_and_says_so(runs: LetterRuns) -> None:
    left = runs.run(env={"batches": 2, "held_out": 4, "answers": ["timeout"]}, eval_every=1)
    assert left.column("env/all/cannot_judge") == [32, 32]
    assert left.column("test/env/all/cannot_judge") == [4, 4, 4]
    assert left.texts("results") == {}
    untrained = runs.run(env={"batches": 1, "held_out": 0}, learning_rate=0.0, options={"evaluate": False})
    assert np.array_equal(left.weights, untrained.weights)
    counts = [data["count"] for kind, data in left.events if kind == "log" and "judged" in data["message"]]
    assert counts == [32, 32]
    assert (left.folder / "report.md").read_text().count("answers could not be judged") == 1


@pytest.mark.slow
def test_real_judges_that_hang_or_exhaust_memory_end_and_their_attempts_are_not_judged(
    runs: LetterRuns,
) -> None:
    env = {"batches": 1, "held_out": 0, "answers": ["x+1", HANGS, EXHAUSTS, "2+x"], "timeout_s": 10.0}
    options = {"evaluate": False, "group_size": 6, "log_groups": EVERYTHING}
    left = runs.run(env=env, options=options, batch_size=1, seed=8, bridge={"workers": 2, "memory_mb": 512})
    assert left.record.state is RunState.COMPLETED
    found = [(line["turns"][0]["logs"]["answer"], line["reward"]) for line in kept(left)]
    assert sorted(found, key=str) == [
        (EXHAUSTS, None),
        (HANGS, None),
        *[("2+x", 1.0)] * 4,
    ]
    assert left.column("env/all/cannot_judge") == [2]
