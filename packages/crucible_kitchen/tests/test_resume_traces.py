"""What a resumed run really trains, beside what was recorded of upstream's resumed runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import DatasetRef, Experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.workflows.preference import PreferenceOptions, preference
from crucible_testing.backend import BigramTraining
from crucible_testing.bench import plant_bigram, toy_experiment

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "resume_traces.json").read_text(encoding="utf-8")
)


def in_the_weights(trace: list[str]) -> list[str]:
    """The batches that the final weights were trained on: those before the checkpoint that is loaded, and after."""
    loads = [place for place, line in enumerate(trace) if line.startswith("load_weights")]
    if not loads:
        return [line for line in trace if line.startswith("train")]
    (load,) = loads
    name = trace[load].split()[-1].rsplit("/", 1)[-1]
    kept = trace[: trace.index(f"save_weights {name}")] + trace[load:]
    return [line for line in kept if line.startswith("train")]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What our runs ask of the backend, in upstream's words."""
    lines: list[str] = []

    def note(method: str, words: Any) -> None:
        asked = getattr(BigramTraining, method)

        def noted(client: Any, first: Any, *rest: Any, **more: Any) -> Any:
            lines.append(words(first))
            return asked(client, first, *rest, **more)

        monkeypatch.setattr(BigramTraining, method, noted)

    def tokens(data: Any) -> str:
        return f"train tokens={sum(datum.model_input.length for datum in data)}"

    note("forward_backward", tokens)
    note("forward_backward_custom", tokens)
    note("save_state", lambda name: f"save_weights {name}")
    note("load_state", lambda ref: f"load_weights {Path(ref.path).name}")
    return lines


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def stopped_at(crucible: Crucible, experiment: Experiment, step: int) -> str:
    """Run until ``step`` steps are done, and no further; the run's id."""

    def stop(what: str, data: Any) -> None:
        if what == "metrics" and data["step"] >= step:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    return crucible.list(limit=1).runs[0].run_id


def test_upstream_trains_two_batches_twice_where_ours_trains_each_once(
    crucible: Crucible, tmp_path: Path, trace: list[str]
) -> None:
    whole = in_the_weights(RECORDED["sl_uninterrupted"])
    resumed = in_the_weights(RECORDED["sl_resumed"])
    assert len(whole) == 28
    assert resumed == [*whole[:7], *whole[5:]]  # submitted ahead of the checkpoint, and again after it
    # the same plan: 28 steps, a checkpoint every 5, stopped after 8, one step submitted ahead
    experiment = toy_experiment(tmp_path, train=56, epochs=2, save_every=5, eval_every=0, submit_ahead=1)
    crucible.run(experiment)
    ours = in_the_weights(trace)
    assert len(ours) == 28
    trace.clear()
    run = stopped_at(crucible, experiment, 8)
    crucible.resume(run)
    assert any(line.startswith("load_weights") for line in trace)
    assert in_the_weights(trace) == ours


def test_upstream_resets_the_reference_of_a_resumed_preference_run_where_ours_keeps_it(
    crucible: Crucible, tmp_path: Path
) -> None:
    rows = RECORDED["dpo_metrics_jsonl_in_file_order"]
    (again,) = (place for place in range(1, len(rows)) if rows[place]["step"] < rows[place - 1]["step"])
    assert rows[again]["dpo_loss"] == pytest.approx(math.log(2))
    assert rows[rows[again]["step"]]["dpo_loss"] != pytest.approx(math.log(2), abs=1e-3)

    path = tmp_path / "pairs.jsonl"
    pairs = [
        {"prompt": [{"role": "user", "content": question}], "chosen": "abab", "rejected": "bbbb"}
        for question in ("ab", "ba", "aab", "bba", "abb", "baa", "aabb", "bbaa")
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    plain = toy_experiment(tmp_path, epochs=3, save_every=2, eval_every=0)
    experiment = plain.model_copy(
        update={
            "dataset": DatasetRef(id=str(path), mapping={"schema": "auto"}),
            "eval_dataset": None,
            "pipeline": preference(PreferenceOptions(renderer="role_colon", evaluate=False)),
            "workflow": "preference",
        }
    )
    whole = crucible.run(experiment)
    resumed = crucible.resume(stopped_at(crucible, experiment, 3))
    losses = [
        [row.metrics["dpo_loss"] for row in crucible.metrics(record.run_id).rows if "dpo_loss" in row.metrics]
        for record in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert losses[1][0] == pytest.approx(math.log(2))
    assert all(loss < math.log(2) - 1e-3 for loss in losses[1][1:])


def test_upstreams_resumed_reinforcement_is_exact_as_ours() -> None:
    """Ours is held by the tests of the reinforcement workflow, in every mode."""
    trace = RECORDED["rl_resumed"]
    first = trace[1 : trace.index("process start", 1)]  # it had come to its end before it was resumed
    assert in_the_weights(trace) == [line for line in first if line.startswith("train")]
