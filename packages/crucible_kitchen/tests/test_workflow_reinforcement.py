"""Whole reinforcement runs over a backend in numpy: what they learn, and that they do it twice, or in two halves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import (
    AdapterError,
    ConfigError,
    Experiment,
    IfDef,
    LoopDef,
    PipelineNode,
    RunState,
    StageDef,
)
from crucible_kitchen.reports.facts import held_out_gains
from crucible_kitchen.workflows.reinforcement import ReinforcementOptions, reinforcement
from crucible_testing.backend import BigramSampler, BigramTraining
from crucible_testing.bench import plant_bigram
from crucible_testing.bigram import BigramTable
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_testing.letter_runs import LetterRuns
from crucible_train.rl import split_list
from crucible_train.types import Datum

SMALL: dict[str, Any] = {"env": {"batches": 4, "held_out": 4}, "eval_every": 2, "save_every": 1}
"""Four iterations of four problems."""

MODES: dict[str, dict[str, Any]] = {
    "sync": {},
    "substeps": {"num_substeps": 3},
    "stream": {"stream_minibatches": 2, "num_substeps": 2},
    "kl": {"kl_penalty_coef": 0.1, "kl_discount_factor": 0.5, "compute_post_kl": True},
    "removing": {"remove_constant_reward_groups": True, "max_tokens": 1, "group_size": 2},
}
"""Ways of training in which the same weights act and learn."""

ASYNC: dict[str, Any] = {"max_steps_off_policy": 2}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LetterRuns:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return LetterRuns(tmp_path)


class Watch:
    """What was sampled and trained, with the weights of that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[tuple[int, np.ndarray]] = []
        self.trained: list[Sequence[Datum]] = []
        self.after_steps: list[np.ndarray] = []
        self.open: set[BigramSampler] = set()
        self.most_open = 0
        sample, close, init = BigramSampler.sample, BigramSampler.close, BigramSampler.__init__
        forward_backward, step = BigramTraining.forward_backward, BigramTable.step

        def sampled(client: Any, prompt: Any, *rest: Any, **more: Any) -> Any:
            self.acted.append((number_of(prompt.to_ints()), client._weights))
            return sample(client, prompt, *rest, **more)

        def trained(client: Any, data: Any, *rest: Any) -> Any:
            self.trained.append(data)
            return forward_backward(client, data, *rest)

        def stepped(table: Any, params: Any) -> float:
            norm = step(table, params)
            self.after_steps.append(table.weights)
            return norm

        def opened(client: Any, *rest: Any) -> None:
            init(client, *rest)
            self.open.add(client)
            self.most_open = max(self.most_open, len(self.open))

        async def closed(client: Any) -> None:
            self.open.discard(client)
            await close(client)

        monkeypatch.setattr(BigramSampler, "sample", sampled)
        monkeypatch.setattr(BigramSampler, "__init__", opened)
        monkeypatch.setattr(BigramSampler, "close", closed)
        monkeypatch.setattr(BigramTraining, "forward_backward", trained)
        monkeypatch.setattr(BigramTable, "step", stepped)

    def problems_trained(self) -> Counter[int]:
        """How many datums of each problem were trained on."""
        return Counter(number_of(datum.model_input.to_ints()) for data in self.trained for datum in data)


def number_of(tokens: Sequence[int]) -> int:
    """The problem's number in ``User: q17 …``."""
    return int(ByteTokenizer().decode(tokens).removeprefix("User: q").split("\n")[0])


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def settings(mode: str, **changes: Any) -> dict[str, Any]:
    return {**SMALL, "options": MODES[mode], **changes}


# --- learning --------------------------------------------------------------------------------------------------


def test_held_out_reward_and_accuracy_rise_and_their_intervals_exclude_zero(runs: LetterRuns) -> None:
    left = runs.run(eval_every=100)
    assert left.record.state is RunState.COMPLETED
    accuracy, reward = held_out_gains(left.folder)
    assert (accuracy.measure.prefix, reward.measure.prefix) == ("accuracy", "reward")
    assert accuracy.difference.interval.low > 0
    assert reward.difference.interval.low > 0
    assert (reward.difference.n, reward.step_before, reward.step_after) == (24, 0, 8)
    assert f"{accuracy.before:.4f} → {accuracy.after:.4f}" in (left.folder / "report.md").read_text()


def test_a_learning_rate_of_zero_leaves_everything_as_it_was(runs: LetterRuns) -> None:
    left = runs.run(learning_rate=0.0, eval_every=100, options={"compute_post_kl": True})
    for gain in held_out_gains(left.folder):
        assert gain.before == gain.after
        assert (gain.difference.interval.low, gain.difference.interval.high) == (0.0, 0.0)
    assert left.column("kl_pre_post_v2") == [0.0] * 8
    longer = runs.run(learning_rate=0.0, env={"batches": 2, "held_out": 0}, options={"evaluate": False})
    assert np.array_equal(left.weights, longer.weights)


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        ("importance_sampling", {}),
        ("ppo", {"clip_low_threshold": 0.7}),
        ("cispo", {"clip_high_threshold": 5.0}),
        ("dro", {"beta": 0.05}),
        ("gspo", {}),
    ],
)
def test_every_policy_loss_learns(runs: LetterRuns, loss: str, config: dict[str, float]) -> None:
    left = runs.run(loss=loss, loss_config=config, eval_every=100)
    accuracy, _ = held_out_gains(left.folder)
    assert accuracy.difference.interval.low > 0


def test_the_rows_say_what_happened_under_upstreams_names(runs: LetterRuns) -> None:
    left = runs.run(**settings("sync"))
    assert [step for step, _ in left.rows] == [0, 1, 2, 3, 4]
    first, second = left.rows[0][1], left.rows[1][1]
    assert [step for step, metrics in left.rows if "test/env/all/reward/total" in metrics] == [0, 2, 4]
    assert (first["env/all/total_episodes"], first["env/all/turns_per_episode"]) == (32, 1)
    assert first["tokens/sampled"] == 32 * 2
    assert second["tokens/cumulative/sampled"] == 2 * 32 * 2
    assert first["env/even/total_episodes"] == first["env/odd/total_episodes"] == 16
    assert first["optim/kl_sample_train_v2"] == pytest.approx(0, abs=1e-12)
    assert first["optim/entropy"] == pytest.approx(np.log(257), abs=0.05)
    assert not [name for name in first if name.startswith(("async/", "rollout_errors/"))]


# --- twice, and in other orders --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, "async"])
def test_the_same_experiment_twice_gives_the_same_bytes(runs: LetterRuns, mode: str) -> None:
    chosen = {**SMALL, "options": MODES.get(mode, ASYNC)}
    first, second = runs.run(**chosen), runs.run(**chosen)
    assert first.same_as(second)
    assert not first.same_as(runs.run(**chosen, seed=1))


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_streaming_in_one_part_equals_waiting_for_all_to_the_last_bit(
    runs: LetterRuns, penalty: float
) -> None:
    options = {"kl_penalty_coef": penalty}
    whole = runs.run(**SMALL, options=options)
    assert whole.same_as(runs.run(**SMALL, options={**options, "stream_minibatches": 1}))


@pytest.mark.parametrize("substeps", [1, 2])
def test_streaming_in_several_parts_equals_waiting_for_all_but_for_rounding(
    runs: LetterRuns, watch: Watch, substeps: int
) -> None:
    options = {"num_substeps": substeps}
    whole = runs.run(**SMALL, options=options)
    watch.trained.clear()
    parts = runs.run(**SMALL, options={**options, "stream_minibatches": 4 // substeps})
    assert [len(data) for data in watch.trained] == [8] * 16
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=0, atol=1e-12)
    for (step, ours), (_, theirs) in zip(parts.rows, whole.rows, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6), step


def test_streaming_takes_the_mean_of_the_penalty_over_each_part(runs: LetterRuns) -> None:
    options = {"kl_penalty_coef": 1.0}
    whole = runs.run(**SMALL, options=options)
    parts = runs.run(**SMALL, options={**options, "stream_minibatches": 2})
    assert parts.column("kl_policy_base")[:2] == pytest.approx(whole.column("kl_policy_base")[:2])
    assert not np.allclose(parts.weights, whole.weights)


def test_more_parts_than_groups_leave_some_parts_empty(runs: LetterRuns, watch: Watch) -> None:
    left = runs.run(**SMALL, batch_size=3, options={"stream_minibatches": 5})
    assert [len(data) for data in watch.trained] == [8] * 12
    assert len(left.rows) == 5


def test_batches_may_be_sampled_ahead_with_weights_that_lag_by_so_many_iterations(
    runs: LetterRuns, watch: Watch
) -> None:
    left = runs.run(env={"batches": 6, "held_out": 0}, options={**ASYNC, "evaluate": False})
    assert len(watch.after_steps) == 6
    assert watch.problems_trained() == dict.fromkeys(range(24), 8)
    first = watch.acted[0][1]
    versions = [first, *watch.after_steps]
    for number, weights in watch.acted:
        assert np.array_equal(weights, versions[max(0, number // 4 - 2)]), number
    for suffix in ("min", "mean", "max"):
        assert left.column(f"async/staleness_{suffix}") == [0, 1, 2, 2, 2, 2]
        assert left.column(f"sampling_client/step_{suffix}") == [0, 0, 0, 1, 2, 3]
    assert left.column("training_client/step") == [0, 1, 2, 3, 4, 5]
    assert left.column("optim/kl_sample_train_v2")[0] == pytest.approx(0, abs=1e-12)
    assert left.column("optim/kl_sample_train_v2")[5] > 1e-6


def test_weights_that_lag_are_another_training_than_weights_that_do_not(runs: LetterRuns) -> None:
    fresh, lagging = runs.run(**settings("sync")), runs.run(**SMALL, options=ASYNC)
    assert not np.array_equal(fresh.weights, lagging.weights)


@pytest.mark.parametrize("substeps", [2, 5, 100])
def test_the_data_of_an_iteration_are_shared_among_its_optimiser_steps(
    runs: LetterRuns, watch: Watch, substeps: int
) -> None:
    left = runs.run(env={"batches": 1, "held_out": 0}, options={"num_substeps": substeps, "evaluate": False})
    parts = min(substeps, 32)
    assert [len(data) for data in watch.trained] == [len(part) for part in split_list(range(32), parts)]
    assert len(watch.after_steps) == parts
    assert watch.problems_trained() == dict.fromkeys(range(4), 8)
    assert left.column("env/all/total_episodes") == [32]


def test_epochs_try_the_same_problems_with_other_draws(runs: LetterRuns, watch: Watch) -> None:
    left = runs.run(env={"batches": 2, "held_out": 0}, options={"evaluate": False}, epochs=2, max_steps=3)
    assert len(left.rows) == 3
    assert watch.problems_trained() == dict.fromkeys(range(4), 16) | dict.fromkeys(range(4, 8), 8)
    targets = [[d.target_tokens.tolist() for d in data] for data in (watch.trained[0], watch.trained[2])]
    assert targets[0] != targets[1]


# --- in two halves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [1, 3])
def test_stopped_at_a_checkpoint_and_resumed_a_run_ends_as_if_it_had_not_stopped(
    runs: LetterRuns, mode: str, step: int
) -> None:
    whole = runs.run(**settings(mode))
    broken = runs.stopped_at_checkpoint(step, **settings(mode))
    assert broken.state is RunState.INTERRUPTED
    assert runs.resumed(broken).same_as(whole)


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_of_many_modes_at_once_goes_on_from_every_place(runs: LetterRuns, step: int) -> None:
    chosen = {**SMALL, "options": {**MODES["stream"], **MODES["kl"]}, "submit_ahead": 0}
    whole = runs.run(**chosen)
    assert runs.resumed(runs.stopped_at_checkpoint(step, **chosen)).same_as(whole)


def test_ctrl_c_amid_rollouts_leaves_a_run_that_goes_on_to_the_same_end(runs: LetterRuns) -> None:
    whole = runs.run(**settings("sync"))
    broken = runs.stopped(lambda what, data: what == "rolled out" and data["step"] == 2, **settings("sync"))
    assert (broken.state, broken.step) == (RunState.INTERRUPTED, 2)
    assert runs.resumed(broken).same_as(whole)


def test_batches_under_way_begin_anew_with_the_weights_of_the_checkpoint_and_each_is_trained_once(
    runs: LetterRuns, watch: Watch
) -> None:
    chosen: dict[str, Any] = {**SMALL, "env": {"batches": 6, "held_out": 0}}
    chosen["options"] = {**ASYNC, "evaluate": False}
    broken = runs.stopped_at_checkpoint(3, **chosen)
    left = runs.resumed(broken)
    assert watch.problems_trained() == dict.fromkeys(range(24), 8)
    assert [step for step, _ in left.rows] == list(range(6))
    assert left.column("sampling_client/step_max") == [0, 0, 0, 3, 3, 3]
    assert left.column("async/staleness_max") == [0, 1, 2, 0, 1, 2]


# --- penalties and what is removed -----------------------------------------------------------------------------


def test_the_penalty_holds_the_policy_to_the_base_model(runs: LetterRuns) -> None:
    far = runs.run(env={"batches": 8, "held_out": 0}, options={"kl_penalty_coef": 1e-9, "evaluate": False})
    near = runs.run(env={"batches": 8, "held_out": 0}, options={"kl_penalty_coef": 2.0, "evaluate": False})
    assert far.column("kl_policy_base")[0] == near.column("kl_policy_base")[0] == 0
    assert near.column("kl_policy_base")[-1] < 0.5 * far.column("kl_policy_base")[-1]


def test_after_a_resume_the_penalty_is_against_the_base_and_not_against_the_resumed_policy(
    runs: LetterRuns,
) -> None:
    chosen = {**SMALL, "options": {"kl_penalty_coef": 1e-9}}
    left = runs.resumed(runs.stopped_at_checkpoint(3, **chosen))
    assert left.column("kl_policy_base")[3] > left.column("kl_policy_base")[1] > 0


def test_of_groups_that_all_have_one_reward_one_is_kept_and_teaches_nothing(
    runs: LetterRuns, watch: Watch
) -> None:
    env = {"batches": 2, "held_out": 0, "answers": ["2+x"]}
    left = runs.run(env=env, options={"remove_constant_reward_groups": True, "evaluate": False})
    assert [len(data) for data in watch.trained] == [8, 8]
    assert left.column("env/all/by_group/frac_all_good") == [1.0, 1.0]
    assert left.column("unclipped_grad_l2:mean") == [0.0, 0.0]
    assert np.array_equal(left.weights, watch.acted[0][1])


# --- episodes of several turns, rewards of groups --------------------------------------------------------------


def test_episodes_of_several_turns_become_one_datum_and_learn(runs: LetterRuns, watch: Watch) -> None:
    left = runs.run(env={"turns": 2}, eval_every=100)
    first = left.rows[0][1]
    assert (first["env/all/turns_per_episode"], first["env/all/total_turns"]) == (2, 64)
    assert {len(data) for data in watch.trained} == {32}
    datum = watch.trained[0][0]
    advantages = datum.loss_fn_inputs["advantages"].array
    assert np.count_nonzero(advantages) == 2 * 2
    assert len(set(advantages[advantages != 0].tolist())) == 1
    assert held_out_gains(left.folder)[0].difference.interval.low > 0
    (line, *_) = left.texts("rollouts")["step_000000.jsonl"].splitlines()
    assert len(json.loads(line)["turns"]) == 2


def test_episodes_end_where_the_experiment_says(runs: LetterRuns) -> None:
    left = runs.run(**SMALL | {"env": {"batches": 2, "held_out": 4, "turns": 5}}, options={"max_turns": 3})
    assert left.column("env/all/turns_per_episode") == [3.0, 3.0]
    assert left.column("test/env/all/turns_per_episode") == [3.0, 3.0]


def test_members_that_are_compared_with_each_other_learn(runs: LetterRuns) -> None:
    left = runs.run(env={"pairwise": True}, eval_every=100)
    assert left.column("env/all/reward/total") == pytest.approx([0.0] * 8, abs=1e-12)
    assert "env/all/won" in left.rows[0][1]
    accuracy, _ = held_out_gains(left.folder)
    assert accuracy.difference.interval.low > 0
    rewards = [
        json.loads(line)["reward"] for line in left.texts("rollouts")["step_000000.jsonl"].splitlines()
    ]
    assert min(rewards) < 0 < max(rewards)
    assert sum(rewards[:8]) == 0


# --- environments that fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "said"),
    [("ours", "problem 5 was to fail"), ("other", "a rollout raised KeyError: 'problem 5'")],
)
def test_a_group_whose_environment_fails_stops_the_run(runs: LetterRuns, failure: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        runs.run(**SMALL | {"env": {"batches": 4, "held_out": 0, "fails": {"5": failure}}})
    (record,) = runs.crucible.list().runs
    assert (record.state, record.step) == (RunState.FAILED, 1)


@pytest.mark.parametrize("mode", ["sync", "stream"])
@pytest.mark.parametrize("failure", ["ours", "other"])
def test_a_group_whose_environment_fails_is_left_out_counted_and_said_where_that_was_asked(
    runs: LetterRuns, watch: Watch, mode: str, failure: str
) -> None:
    env = {"batches": 3, "held_out": 4, "fails": {"5": failure, "1002": failure}}
    options = {**MODES[mode], "on_error": "drop", "log_groups": 1}
    left = runs.run(env=env, options=options, eval_every=100)
    assert left.record.state is RunState.COMPLETED
    assert watch.problems_trained() == {n: 8 for n in range(12) if n != 5}
    assert [metrics.get("rollout_errors/groups") for _, metrics in left.rows] == [None, 1, None, None]
    assert left.column("env/all/total_episodes") == [32, 24, 32]
    assert any("groups failed and are left out" in message for message in left.said())
    kept = [json.loads(line) for line in left.texts("rollouts")["step_000001.jsonl"].splitlines()]
    assert [line["group"] for line in kept] == [0] * 8 + [1]
    assert "problem 5" in kept[-1]["failed"]
    assert left.column("test/rollout_errors/groups") == [1, 1]
    assert left.column("test/env/all/total_episodes") == [3, 3]
    ids = [
        json.loads(line)["example_id"] for line in left.texts("results")["reward_000003.jsonl"].splitlines()
    ]
    assert ids == ["held-0", "held-1", "held-3"]
    assert any(message.startswith("held-out problems failed and are left out") for message in left.said())


def test_held_out_problems_that_all_fail_stop_the_run_whatever_was_asked(runs: LetterRuns) -> None:
    env = {"batches": 2, "held_out": 3, "fails": {str(n): "ours" for n in range(1000, 1003)}}
    with pytest.raises(Exception, match="problem 1000 was to fail"):
        runs.run(env=env, options={"on_error": "drop"}, eval_every=100)


@pytest.mark.parametrize("mode", ["sync", "stream"])
def test_an_iteration_of_which_every_group_failed_stops_the_run_whatever_was_asked(
    runs: LetterRuns, mode: str
) -> None:
    env = {"batches": 4, "held_out": 0, "fails": {str(n): "other" for n in range(4, 8)}}
    with pytest.raises(Exception, match="KeyError: 'problem 4'"):
        runs.run(env=env, options={**MODES[mode], "on_error": "drop", "evaluate": False})
    (record,) = runs.crucible.list().runs
    assert record.state is RunState.FAILED
    assert list(runs.left(record).texts("rollouts")) == ["step_000000.jsonl"]


@pytest.mark.parametrize("number", [0, 50])
def test_rollouts_with_a_retry_policy_outlive_a_sampler_that_fails_once(
    runs: LetterRuns, number: int
) -> None:
    chosen: dict[str, Any] = {"env": {"batches": 3, "held_out": 0}, "options": {"evaluate": False}}
    whole = runs.run(**chosen)
    experiment = runs.experiment(**chosen, faults={"fail": {"sample": number}})
    text = experiment.model_dump_json().replace(
        '"name":"rollout","label":null,"options":{"substeps":1,"minibatches":0}',
        '"name":"rollout","label":null,"options":{}',
    )
    once = '"name":"rollout","label":null,"options":{},"enabled":true,"retry":{"attempts":1,"wait_s":0.5'
    assert once in text
    patient = Experiment.parse(text.replace(once, once.replace("1,", "2,").replace("0.5", "0.0")))
    left = runs.left(runs.crucible.run(patient))
    assert left.same_as(whole)
    assert len([kind for kind, _ in left.events if kind == "stage.retried"]) == 1
    with pytest.raises(Exception, match=f"call {number} was to fail"):
        runs.crucible.run(experiment)


@pytest.mark.parametrize("options", [{}, {"stream_minibatches": 2}], ids=["whole", "streamed"])
def test_an_iteration_of_which_every_group_failed_is_tried_again_where_the_policy_says_so(
    runs: LetterRuns, options: dict[str, Any]
) -> None:
    chosen = {
        "env": {"batches": 3, "held_out": 0},
        "options": {"evaluate": False, "group_size": 1, **options},
    }
    whole = runs.run(batch_size=1, **chosen)
    dropping = {**chosen, "options": {**chosen["options"], "on_error": "drop"}}
    experiment = runs.experiment(batch_size=1, **dropping, faults={"fail": {"sample": 1}})
    patient = Experiment.parse(
        experiment.model_dump_json().replace('"attempts":1,"wait_s":0.5', '"attempts":2,"wait_s":0.0')
    )
    left = runs.left(runs.crucible.run(patient))
    assert left.same_as(whole)
    assert len([kind for kind, _ in left.events if kind == "stage.retried"]) == 1


# --- nothing is left behind ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "most"), [({}, 2), (ASYNC, 4), (MODES["kl"], 3)])
def test_samplers_are_closed_when_they_are_no_longer_used(
    runs: LetterRuns, watch: Watch, options: dict[str, Any], most: int
) -> None:
    runs.run(**SMALL | {"env": {"batches": 7, "held_out": 2}}, options=options)
    assert watch.open == set()
    assert watch.most_open <= most


def test_samplers_are_closed_where_a_run_fails_with_rollouts_under_way(
    runs: LetterRuns, watch: Watch
) -> None:
    env = {"batches": 6, "held_out": 0, "fails": {"9": "other"}}
    with pytest.raises(Exception, match="problem 9"):
        runs.run(env=env, options={**ASYNC, "evaluate": False})
    assert watch.open == set()


def test_secrets_are_taken_out_of_rollouts_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-planted-0123456789abcdef"
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    monkeypatch.setattr("crucible_testing.letters.QUESTION", f"q{{}} {secret}")
    left = LetterRuns(tmp_path, environ={"PROBE_API_KEY": secret}).run(**SMALL)
    assert "q0 " in left.texts("rollouts")["step_000000.jsonl"]
    assert "q1000 " in left.texts("results")["reward_000000.jsonl"]
    holders = [p.name for p in left.folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    assert holders == []


def test_kept_rollouts_are_the_first_groups_of_every_iteration(runs: LetterRuns) -> None:
    left = runs.run(**SMALL, options={"log_groups": 2})
    files = left.texts("rollouts")
    assert list(files) == [f"step_{step:06d}.jsonl" for step in range(4)]
    lines = [json.loads(line) for line in files["step_000001.jsonl"].splitlines()]
    assert [(line["group"], line["member"]) for line in lines] == [(g, m) for g in range(2) for m in range(8)]
    assert {line["version"] for line in lines} == {1}
    (turn,) = lines[0]["turns"]
    assert turn["observation"] == "User: q4\n\nAssistant:"
    assert turn["reward"] == lines[0]["reward"] == turn["metrics"]["plain"]
    assert runs.run(**SMALL, options={"log_groups": 0}).texts("rollouts") == {}


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "kind", "said"),
    [
        ({"loss": "stable_reinforce"}, ConfigError, "training.loss: stable_reinforce has no public formula"),
        ({"loss": "importance"}, ConfigError, "did you mean 'importance_sampling'"),
        ({"loss": "dro"}, ConfigError, "training.loss_config.beta: dro needs beta"),
        ({"loss": "cross_entropy"}, ConfigError, "'cross_entropy' needs weights, which rollouts do not hold"),
        ({"options": {"env": "plain_leters"}}, AdapterError, "did you mean 'plain_letters'"),
        ({"env": {"bathces": 3}}, ConfigError, "env_options.bathces.*did you mean 'batches'"),
        ({"env": {"batches": 0}}, ConfigError, r"env_options\.batches"),
        ({"options": {"on_error": "ignore"}}, ConfigError, r"on_error"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_before_anything_runs(
    runs: LetterRuns, chosen: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        runs.run(**chosen)
    assert runs.crucible.list().runs == ()


def test_streaming_and_sampling_ahead_exclude_each_other() -> None:
    both: dict[str, Any] = {"env": "x", "stream_minibatches": 2, "max_steps_off_policy": 1}
    for made in (ReinforcementOptions.parse, lambda options: ReinforcementOptions(**options)):
        with pytest.raises(ConfigError, match="^stream_minibatches: .* exclude each other; set one"):
            made(both)


# --- the workflow as data --------------------------------------------------------------------------------------


def stages_of(nodes: Sequence[PipelineNode]) -> list[StageDef]:
    found: list[StageDef] = []
    for node in nodes:
        if isinstance(node, StageDef):
            found.append(node)
        elif isinstance(node, LoopDef | IfDef):
            found += stages_of(node.body)
    return found


def pipeline(**options: Any) -> dict[str, dict[str, Any]]:
    """Stages by label, with their options."""
    nodes = reinforcement(ReinforcementOptions.parse({"env": "x", **options}))
    return {node.label or node.name: dict(node.options) for node in stages_of(nodes)}


@pytest.mark.parametrize(
    ("options", "more", "fewer"),
    [
        ({"evaluate": False}, set(), {"evaluate_rollouts", "final_evaluation"}),
        ({"data": False}, {"no_dataset"}, {"load_dataset"}),
        ({"registered": False}, set(), {"register_model"}),
        ({"compute_post_kl": True}, {"measure_post_kl"}, set()),
        ({"kl_penalty_coef": 0.5}, {"load_reference", "penalize_kl"}, set()),
        ({"stream_minibatches": 2}, set(), {"split_updates"}),
    ],
)
def test_what_is_not_wanted_is_not_in_the_pipeline(
    options: dict[str, Any], more: set[str], fewer: set[str]
) -> None:
    plain, changed = set(pipeline()), set(pipeline(**options))
    assert (changed - plain, plain - changed) == (more, fewer)


def test_options_reach_their_stages() -> None:
    found = pipeline(
        renderer="qwen3", group_size=5, max_tokens=7, temperature=0.5, max_turns=3, max_steps_off_policy=2,
        num_substeps=4, on_error="drop", log_groups=9, eval_temperature=0.25, eval_max_tokens=11,
        remove_constant_reward_groups=True, kl_penalty_coef=0.1, kl_discount_factor=0.2,
    )  # fmt: skip
    assert found["init_tokenizer"] == {"renderer": "qwen3"}
    assert found["build_env_group"] == {"env": "x", "env_options": {}, "group_size": 5}
    assert found["open_rollouts"] == {
        "max_tokens": 7, "temperature": 0.5, "max_turns": 3, "max_steps_off_policy": 2, "on_error": "drop",
    }  # fmt: skip
    assert found["split_updates"] == {"num_substeps": 4}
    assert found["log_rollouts"] == {"groups": 9}
    assert found["compute_advantages"] == {"remove_constant_reward_groups": True}
    assert found["penalize_kl"] == {"coef": 0.1, "discount": 0.2}
    tried = {"max_tokens": 11, "temperature": 0.25, "max_turns": 3, "on_error": "drop"}
    assert found["evaluate_rollouts"] == tried
    assert found["final_evaluation"] == tried | {"standalone": True}
