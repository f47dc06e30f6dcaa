"""A step of reinforcement learning, seconds: 32 completions of 64 tokens sampled, rewarded and trained on.

    python -m benchmarks run reinforcement --case 30m
    python -m benchmarks.reinforcement ours --size 30m      one run of ours

Four prompts with eight completions each. The floor is ``floor_grpo.py`` in bfloat16, which computes each prompt once
for sampling and once for training; the peer TRL's ``GRPOTrainer`` with bfloat16 autocast and transformers'
``generate``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import neighbours
from benchmarks.bare_engine import BareEngine, Steps, arguments_of, run_ours, yardstick
from benchmarks.contest import Case, Guard, Workload

__all__ = ["WORKLOAD", "cases", "main", "policy_datum"]

STEPS = {"5m": (5, 1), "30m": (4, 1), "120m": (3, 1)}
PROMPTS, GROUP, NEW = 4, 8, 64


def cases(labels: Sequence[str]) -> list[Case]:
    """The named sizes; all without names."""
    return [_case(label) for label in labels or STEPS]


def _case(size: str) -> Case:
    steps, warm = STEPS[size]
    shape = ("--size", size, "--steps", str(steps), "--warm", str(warm))
    return Case(
        label=size,
        contestants=(
            neighbours.ours("benchmarks.reinforcement", *shape),
            neighbours.floor("floor_grpo.py", *shape, "--variant", "bf16", "--share", "1"),
            *neighbours.peer(
                "peer_grpo.py", *shape, "--variant", "autocast" if size != "120m" else "default"
            ),
        ),
        guard=Guard(
            key="surprise",
            band=0.02,
            reference=neighbours.ours(
                "benchmarks.reinforcement", *shape, "--dtype", "float32", name="float32"
            ),
        ),
    )


WORKLOAD = Workload(
    name="reinforcement",
    title="A step of reinforcement learning",
    measure="step_cpu_s",
    unit="seconds of processor time a step",
    cases=cases,
    goals={"floor": 0.9, "TRL": 3.2},
    more_is_better=False,
    also=("step_s", "peak_rss_mb"),
)


def policy_datum(
    prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float], advantages: Any
) -> Any:
    """What the policy losses read of one completion; ``advantages`` is one for all of its tokens or one for each."""
    from crucible_train.types import Datum, ModelInput, TensorData

    whole = [*prompt, *tokens]
    before = np.zeros(len(prompt) - 1, dtype=np.float32)

    def over(values: Any) -> TensorData:
        given = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(tokens),))
        return TensorData.of(np.concatenate([before, given]))

    return Datum(
        ModelInput.from_ints(whole[:-1]),
        {
            "target_tokens": TensorData.of(whole[1:]),
            "logprobs": over(logprobs),
            "advantages": over(advantages),
            "mask": over(1.0),
        },
    )


def train(engine: BareEngine, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run of ours; ``surprise`` is the mean negative log-probability of what was sampled."""
    from crucible_train.types import AdamParams, ModelInput, SamplingParams

    common = yardstick()
    tokenizer = common.tokenizer()
    problems = [
        (
            tokenizer.apply_chat_template(p["prompt"], add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ],
            p["answer"],
        )
        for p in common.math_prompts(256)
    ]
    rng = np.random.Generator(np.random.PCG64(0))
    adam = AdamParams(
        learning_rate=1e-5, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0
    )

    def step(number: int) -> dict[str, float]:
        batch = problems[(number * PROMPTS) % 252 :][:PROMPTS]
        sampler = engine.client.sampling_client().result()
        handles = [
            sampler.sample(
                ModelInput.from_ints(prompt),
                SamplingParams(max_tokens=NEW, stop=[], seed=1000 * number + place),
                num_samples=GROUP,
            )
            for place, (prompt, _) in enumerate(batch)
        ]
        groups = [handle.result().sequences for handle in handles]
        data = []
        for (prompt, answer), group in zip(batch, groups, strict=True):
            texts = tokenizer.batch_decode([list(one.tokens) for one in group], skip_special_tokens=True)
            rewards = np.array([float(re.findall(r"\d+", text)[-1:] == [answer]) for text in texts])
            rewards += 0.01 * rng.random(GROUP)
            advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4) / (PROMPTS * GROUP * NEW)
            data += [
                policy_datum(prompt, one.tokens, one.logprobs, advantage)
                for one, advantage in zip(group, advantages, strict=True)
            ]
        done = engine.client.forward_backward(data, "importance_sampling")
        engine.client.optim_step(adam).result()
        done.result()
        drawn = [lp for group in groups for one in group for lp in one.logprobs]
        return {"surprise": -float(np.mean(drawn)), "tokens": float(len(drawn))}

    steps = Steps(options.warm)
    for number in range(options.steps):
        steps.measure(lambda number=number: step(number))  # type: ignore[misc]
    assert all(row["tokens"] == PROMPTS * GROUP * NEW for row in steps.rows)
    return {
        "step_cpu_s": steps.median("cpu_s"),
        "step_s": steps.median("wall_s"),
        "surprise": steps.mean("surprise"),
    }


def main(arguments: Sequence[str]) -> int:
    """One run of ours; its figures are the last line."""
    run_ours(arguments_of((__doc__ or "").splitlines()[0], arguments), train)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
