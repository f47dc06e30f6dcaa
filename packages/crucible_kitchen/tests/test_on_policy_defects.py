"""Listed defects of distillation on policy, and figures that are shown and do not exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from crucible_ir import DatasetRef, Experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.progress import facts_of
from crucible_kitchen.workflows.on_policy_distillation import (
    OnPolicyOptions,
    PromptSource,
    on_policy_distillation,
)
from crucible_kitchen.workflows.preference import PreferenceOptions, preference
from crucible_kitchen.workflows.reinforcement import ReinforcementOptions, reinforcement
from crucible_testing.backend import BigramSampler, BigramTraining, write_bigram_model
from crucible_testing.bench import plant_bigram, toy_experiment
from crucible_train.types import Datum, ModelInput, SamplingParams

GROUPS, MEMBERS, ITERATIONS = 4, 6, 4
Make = Callable[..., Experiment]


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site_of_bigram")))
    return Crucible(tmp_path / "home")


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """Another base model."""
    return str(write_bigram_model(tmp_path / "teacher", seed=1))


@pytest.fixture
def taught(tmp_path: Path, teacher: str) -> Make:
    """Makes a run of 4 iterations in which 4 prompts are answered by 6 members."""

    def make(*, options: dict[str, Any] | None = None, **changes: Any) -> Experiment:
        settings = {"batch_size": GROUPS, "loss": "importance_sampling", "learning_rate": 0.5} | changes
        plain = toy_experiment(tmp_path, **settings)
        source = PromptSource(name="chats", groups_per_batch=GROUPS, teacher=teacher)
        chosen = {"renderer": "role_colon", "group_size": MEMBERS, "max_tokens": 3, "source": source}
        nodes = on_policy_distillation(OnPolicyOptions(**{**chosen, **(options or {})}))
        return plain.model_copy(update={"pipeline": nodes, "workflow": "on_policy_distillation"})

    return make


def table_of(model: str) -> np.ndarray:
    """The weights that a base model begins with."""
    seed = json.loads(Path(model, "bigram.json").read_text())["seed"]
    return np.random.Generator(np.random.PCG64(seed)).normal(scale=0.1, size=(257, 257))


class Watch:
    """Which weights answered, which scored, and what was trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answering: list[np.ndarray] = []
        self.scoring: list[np.ndarray] = []
        self.trained: list[tuple[list[Datum], np.ndarray]] = []
        sample, score = BigramSampler.sample, BigramSampler.compute_logprobs
        train = BigramTraining.forward_backward

        def sampled(client: BigramSampler, prompt: ModelInput, params: SamplingParams, **rest: Any) -> Any:
            self.answering.append(client._weights)
            return sample(client, prompt, params, **rest)

        def scored(client: BigramSampler, prompt: ModelInput) -> Any:
            self.scoring.append(client._weights)
            return score(client, prompt)

        def trained(client: BigramTraining, data: Sequence[Datum], *rest: Any) -> Any:
            self.trained.append((list(data), client.table.weights.copy()))
            return train(client, data, *rest)

        monkeypatch.setattr(BigramSampler, "sample", sampled)
        monkeypatch.setattr(BigramSampler, "compute_logprobs", scored)
        monkeypatch.setattr(BigramTraining, "forward_backward", trained)


def rows_of(crucible: Crucible, run_id: str) -> list[dict[str, float]]:
    return [row.metrics for row in crucible.metrics(run_id).rows if "progress" in row.metrics]


def test_dt3_the_student_answers_and_the_teacher_only_scores(
    crucible: Crucible, taught: Make, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    crucible.run(taught(options={"evaluate": False}))
    theirs = table_of(teacher)
    assert len(watch.answering) == GROUPS * MEMBERS * ITERATIONS
    assert not any(np.array_equal(weights, theirs) for weights in watch.answering)
    for number, (_, before) in enumerate(watch.trained):
        asked = watch.answering[GROUPS * MEMBERS * number : GROUPS * MEMBERS * (number + 1)]
        assert all(np.array_equal(weights, before) for weights in asked)
    assert watch.scoring
    assert all(np.array_equal(weights, theirs) for weights in watch.scoring)


def test_dt3_every_sampled_token_has_an_advantage_of_its_own_from_the_teacher(
    crucible: Crucible, taught: Make, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    crucible.run(taught(options={"evaluate": False, "kl_penalty_coef": 0.5}))
    table = table_of(teacher)
    logprobs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    for datum in watch.trained[0][0]:
        sampled, advantages = (datum.loss_fn_inputs[name].array for name in ("logprobs", "advantages"))
        acted = sampled != 0
        opinion = logprobs[datum.model_input.to_ints(), datum.target_tokens]
        np.testing.assert_allclose(advantages[acted], 0.5 * (opinion - sampled)[acted], atol=1e-5)
        assert not advantages[~acted].any()
        assert advantages[acted].any()


def test_dt3_the_student_comes_closer_to_its_teacher_and_without_a_rate_it_does_not(
    crucible: Crucible, taught: Make
) -> None:
    def distances(rate: float) -> tuple[float, float]:
        settings: dict[str, Any] = {"learning_rate": rate, "epochs": 4, "eval_every": 100, "held_out": 40}
        record = crucible.run(taught(**settings, options={"group_size": 16, "max_tokens": 6}))
        found = [
            row.metrics["test/teacher_kl"]
            for row in crucible.metrics(record.run_id).rows
            if "test/teacher_kl" in row.metrics
        ]
        return found[0], found[-1]

    before, after = distances(0.2)
    idle = distances(0.0)
    assert idle[0] == idle[1] == before
    assert after < before


def test_rows_of_distillation_on_policy_have_the_names_of_every_workflow(
    crucible: Crucible, taught: Make
) -> None:
    record = crucible.run(taught(options={"evaluate": False}))
    rows = rows_of(crucible, record.run_id)
    assert len(rows) == ITERATIONS
    for row in rows:
        assert row["learning_rate"] > 0
        assert set(row) >= {"progress", "tokens/cumulative/trained", "unclipped_grad_l2:mean", "teacher_kl"}


# --- what is shown ---------------------------------------------------------------------------------------------


def of_preferences(folder: Path) -> Experiment:
    rows = [
        {"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": "ab", "rejected": "b"} for n in range(4)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DatasetRef(id=str(path), mapping={"schema": "auto"})
    nodes = preference(PreferenceOptions(renderer="role_colon"))
    return toy_experiment(folder).model_copy(
        update={"pipeline": nodes, "dataset": data, "eval_dataset": data}
    )


def of_sums(folder: Path) -> Experiment:
    chosen: dict[str, Any] = {
        "data": False,
        "env": "arithmetic",
        "env_options": {"n_batches": 1, "held_out": 2},
    }
    nodes = reinforcement(ReinforcementOptions(renderer="role_colon", group_size=2, max_tokens=2, **chosen))
    plain = toy_experiment(folder, batch_size=2, loss="importance_sampling")
    return plain.model_copy(update={"pipeline": nodes, "dataset": None, "eval_dataset": None})


def test_every_figure_that_progress_shows_is_one_that_a_workflow_reports(
    crucible: Crucible, taught: Make, tmp_path: Path
) -> None:
    class Asked(dict[str, float]):
        names: ClassVar[set[str]] = set()

        def __contains__(self, name: object) -> bool:
            self.names.add(str(name))
            return False

    facts_of(Asked())
    reported: set[str] = set()
    for experiment in (toy_experiment(tmp_path), of_preferences(tmp_path), of_sums(tmp_path), taught()):
        record = crucible.run(experiment)
        reported |= {name for row in crucible.metrics(record.run_id).rows for name in row.metrics}
    assert len(Asked.names) >= 5
    assert Asked.names - reported == set()
