"""Listed defects that no other test of training names; docs/defects.md says where each one is held."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from crucible_ir import OptimizerSpec, ScheduleSpec
from crucible_ir.errors import DataError, ServiceError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.distillation import incorporate_teacher_kl
from crucible_train.renderers import (
    ImagePart,
    Message,
    RendererOptions,
    TextPart,
    TrainOnWhat,
    get_renderer,
    message_from_dict,
)
from crucible_train.rl import (
    Env,
    StepResult,
    Trajectory,
    TrajectoryGroup,
    Transition,
    compute_advantages,
    group_advantages,
    judged_only,
    kl_sample_train,
    remove_constant_reward_groups,
    rollout,
    trajectory_metrics,
    trajectory_to_data,
)
from crucible_train.schedules import lr_multiplier
from crucible_train.supervised import compute_mean_nll, datum_from_model_input_weights
from crucible_train.types import (
    AdamParams,
    Datum,
    ImageChunk,
    ModelInput,
    SampledSequence,
    StopCondition,
    TensorData,
)


class ThreePositions:
    def count_positions(self, image: ImagePart) -> int:
        return 3


def sampled(*tokens: int) -> SampledSequence:
    return SampledSequence(tokens=tokens, logprobs=(-1.0,) * len(tokens), stop_reason="stop")


def turn(observation: Sequence[int], action: SampledSequence) -> Transition:
    return Transition(observation=ModelInput.from_ints(observation), action=action, reward=0.0)


# Weights


@pytest.mark.parametrize("what", [TrainOnWhat.ALL_TOKENS, TrainOnWhat.ALL_MESSAGES])
def test_the_positions_of_an_image_are_never_trained(mini: FileTokenizer, what: TrainOnWhat) -> None:
    """Their targets are 0, which is the id of some token: a weight there would train it."""
    renderer = get_renderer("qwen3_vl", mini, RendererOptions(images=ThreePositions()))
    seeing = Message(role="user", content=(TextPart("a"), ImagePart(data=b"i", format="png"), TextPart("b")))
    example = renderer.build_supervised_example([seeing, Message(role="assistant", content="c")], what)
    seen = [
        isinstance(chunk, ImageChunk) for chunk in example.model_input.chunks for _ in range(chunk.length)
    ]
    assert sum(seen) == 3
    assert not example.weights[np.array(seen)].any()
    assert (example.weights[~np.array(seen)] == 1).sum() > 3
    datum = datum_from_model_input_weights(example.model_input, example.weights)
    assert not datum.weights[datum.target_tokens == 0].any()


# Trajectories


def test_a_trajectory_that_fails_half_way_leaves_nothing_for_the_next() -> None:
    good = Trajectory(transitions=(turn([1, 2], sampled(3)), turn([1, 2, 3, 4], sampled(5))))
    expected = trajectory_to_data(good, 1.0)
    bare = SampledSequence(tokens=(9,), stop_reason="stop")
    with pytest.raises(ServiceError):
        trajectory_to_data(Trajectory(transitions=(turn([7, 8], sampled(6)), turn([7, 8, 6], bare))), 1.0)
    assert trajectory_to_data(good, 1.0) == expected


def test_a_turn_without_a_sampled_token_has_float_advantages_like_any_other() -> None:
    (datum,) = trajectory_to_data(Trajectory(transitions=(turn([1, 2, 3], sampled()),)), 2.0)
    dtypes = {name: tensor.array.dtype for name, tensor in datum.loss_fn_inputs.items()}
    assert dtypes.pop("target_tokens") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float32)}
    assert not datum.loss_fn_inputs["advantages"].array.any()


# Means of nothing


def test_means_of_nothing_are_defined() -> None:
    assert group_advantages([]).tolist() == []
    assert compute_advantages([]) == []
    assert judged_only([]) == ([], 0)
    assert remove_constant_reward_groups([]) == []
    found = trajectory_metrics([])
    assert found["env/all/reward/total"] == found["env/all/by_group/frac_mixed"] == 0.0
    empty = TrajectoryGroup(trajectories=(), final_rewards=(), metrics=())
    assert [a.tolist() for a in compute_advantages([empty])] == [[]]
    assert trajectory_metrics([empty])["env/all/total_episodes"] == 0
    assert math.isnan(compute_mean_nll([], []))
    assert math.isnan(compute_mean_nll([np.zeros(2)], [np.zeros(2)]))


def test_a_divergence_over_no_sampled_token_is_not_a_number_and_moves_nothing() -> None:
    names = ("logprobs", "mask", "advantages")
    tensors = {name: TensorData.of(np.zeros(2, np.float32)) for name in names}
    silent = Datum(ModelInput.from_ints([1, 2]), {**tensors, "target_tokens": TensorData.of([2, 3])})
    other = [np.float32([-1.0, -2.0])]
    assert all(math.isnan(value) for value in kl_sample_train([silent], other).values())
    (moved,), metrics = incorporate_teacher_kl([silent], other)
    assert math.isnan(metrics["teacher_kl"])
    assert not moved.loss_fn_inputs["advantages"].array.any()


# Settings


@pytest.mark.parametrize("name", get_args(ScheduleSpec.model_fields["name"].annotation))
def test_every_schedule_that_settings_take_is_computed_and_stays_between_zero_and_one(name: str) -> None:
    found = [lr_multiplier(name, step, 10, warmup_steps=2) for step in range(25)]
    assert all(0 <= value <= 1 for value in found)
    assert max(found) == 1
    assert found[0] == 0  # the warm-up
    assert lr_multiplier(name, 0, 10) == 1


def test_there_is_one_set_of_defaults_for_the_optimiser() -> None:
    """As experiments carry them and as a backend takes them; upstream's loops differ in eps, ports in beta2."""
    spec, params = OptimizerSpec(), AdamParams(learning_rate=1.0)
    for name in ("beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"):
        assert getattr(spec, name) == getattr(params, name), name
    assert (spec.beta2, spec.eps) == (0.95, 1e-8)


# What comes from outside


@pytest.mark.parametrize(
    "image",
    [
        {"type": "image", "url": "http://127.0.0.1:9/i.png", "format": "png"},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/i.png"}},
        {"type": "image", "data": "http://127.0.0.1:9/i.png", "format": "png"},
        {"type": "image", "data": "file:///etc/hostname", "format": "png"},
        {"type": "image", "image": "http://127.0.0.1:9/i.png", "format": "png"},
    ],
)
def test_an_image_that_is_an_address_is_refused_and_nothing_is_opened(
    image: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def opened(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was opened")

    monkeypatch.setattr(socket.socket, "connect", opened)
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(DataError, match=r"content\[0\]"):
        message_from_dict({"role": "user", "content": [image]})


# Rollouts


def test_every_token_of_a_rollout_is_the_present_models() -> None:
    """The student acts, whoever teaches: its sampler is asked at every turn, with all that was observed."""
    asked: list[list[int]] = []

    class TwoTurns:
        async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
            return ModelInput.from_ints([1]), (0,)

        async def step(self, action: SampledSequence) -> StepResult:
            done = len(asked) == 2
            return StepResult(
                reward=0.0, episode_done=done, next_observation=ModelInput.from_ints([1, *action.tokens, 2])
            )

    async def student(observation: ModelInput, stop: StopCondition) -> SampledSequence:
        asked.append(observation.to_ints())
        return sampled(10 + len(asked))

    env: Env = TwoTurns()
    done = asyncio.run(rollout(env, student))
    assert asked == [[1], [1, 11, 2]]
    assert [step.action.tokens for step in done.transitions] == [(11,), (12,)]
