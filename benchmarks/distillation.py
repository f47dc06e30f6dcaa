"""A step of distillation, seconds: on the student's own answers, or on given text with the teacher's likeliest tokens.

    python -m benchmarks run distillation --case "on policy 5m"
    python -m benchmarks.distillation ours --mode on_policy --size 5m      one run of ours

A student of 5 million parameters learns from one of 30, one of 30 from one of 100; 16 texts a step. The floor
(``floor_distill.py`` in bfloat16) and TRL train towards the teacher's whole distribution. Ours takes what the
recipe takes: on policy, the difference of log-probabilities of the sampled tokens as their advantage; off policy, the
teacher's 20 likeliest tokens as targets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import neighbours
from benchmarks.bare_engine import BareEngine, Steps, arguments_of, run_ours, yardstick
from benchmarks.contest import Case, Guard, Workload
from benchmarks.reinforcement import policy_datum

__all__ = ["WORKLOAD", "cases", "main"]

TEACHERS = {"5m": "30m", "30m": "100m8k"}
STEPS = {"5m": (5, 1), "30m": (3, 1)}
BATCH, NEW, TARGETS = 16, 64, 20
ENGINES = {"on policy": ("onpolicy", "onpolicy"), "off policy": ("offpolicy", "gkd")}
"""What the floor and the peer call it."""


def cases(labels: Sequence[str]) -> list[Case]:
    """The named cases such as ``on policy 5m``; all without names."""
    known = {f"{mode} {size}": (mode, size) for mode in ENGINES for size in TEACHERS}
    return [_case(*known[label]) for label in labels or known]


def _case(mode: str, size: str) -> Case:
    steps, warm = STEPS[size]
    shape = ("--size", size, "--teacher", TEACHERS[size], "--steps", str(steps), "--warm", str(warm))
    floor, peer = ENGINES[mode]
    ours = (*shape, "--mode", mode.replace(" ", "_"))
    return Case(
        label=f"{mode} {size}",
        contestants=(
            neighbours.ours("benchmarks.distillation", *ours),
            neighbours.floor("floor_distill.py", *shape, "--engine", floor, "--variant", "bf16"),
            *neighbours.peer("peer_distill.py", *shape, "--engine", peer, "--variant", "autocast"),
        ),
        guard=Guard(
            key="loss",
            band=0.02,
            reference=neighbours.ours("benchmarks.distillation", *ours, "--dtype", "float32", name="float32"),
        ),
    )


WORKLOAD = Workload(
    name="distillation",
    title="A step of distillation",
    measure="step_cpu_s",
    unit="seconds of processor time a step",
    cases=cases,
    goals={"floor": 0.9, "TRL": 2.8},
    more_is_better=False,
    also=("step_s", "peak_rss_mb"),
)

Step = Callable[[int], tuple[list[Any], str, float]]
"""Data of a step, its loss, and what stands for its quality."""


def on_policy(engine: BareEngine, teacher: Any) -> Step:
    """Sample, let the teacher score, pull towards it; quality is the mean negative log-probability of the samples."""
    from crucible_train.types import ModelInput, SamplingParams

    common = yardstick()
    tokenizer = common.tokenizer()
    prompts = [
        tokenizer.apply_chat_template(p["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        for p in common.math_prompts(256)
    ]

    def step(number: int) -> tuple[list[Any], str, float]:
        batch = prompts[(number * BATCH) % 240 :][:BATCH]
        sampler = engine.client.sampling_client().result()
        handles = [
            sampler.sample(
                ModelInput.from_ints(prompt),
                SamplingParams(max_tokens=NEW, stop=[], seed=1000 * number + place),
            )
            for place, prompt in enumerate(batch)
        ]
        answers = [handle.result().sequences[0] for handle in handles]
        scores = [
            teacher.compute_logprobs(ModelInput.from_ints([*prompt, *answer.tokens]))
            for prompt, answer in zip(batch, answers, strict=True)
        ]
        data, drawn = [], []
        for prompt, answer, score in zip(batch, answers, scores, strict=True):
            own = np.asarray(answer.logprobs)
            distance = own - np.asarray(score.result()[len(prompt) :], dtype=np.float64)
            data.append(policy_datum(prompt, answer.tokens, answer.logprobs, -distance / (BATCH * NEW)))
            drawn.append(own)
        return data, "importance_sampling", -float(np.mean(drawn))

    return step


def off_policy(engine: BareEngine, teacher: Any) -> Step:
    """Ask the teacher for its likeliest tokens, train towards them; quality is what they leave over of its mass."""
    from crucible_train.types import Datum, ModelInput, SamplingParams, TensorData

    common = yardstick()
    encoded = common.encode_conversations(common.conversations(2000), common.tokenizer(), 300)

    def step(number: int) -> tuple[list[Any], str, float]:
        batch = encoded[(number * BATCH) % 280 :][:BATCH]
        once = SamplingParams(max_tokens=1, seed=0)
        handles = [
            teacher.sample(ModelInput.from_ints(tokens), once, topk_prompt_logprobs=TARGETS)
            for tokens, _ in batch
        ]
        count = sum(sum(mask[1:]) for _, mask in batch)
        data, mass = [], []
        for (tokens, mask), handle in zip(batch, handles, strict=True):
            likeliest = np.array(handle.result().topk_prompt_logprobs[1:])  # (N, K, 2)
            weights = np.exp(likeliest[:, :, 1])
            chosen = np.asarray(mask[1:], dtype=bool)
            mass.append(weights[chosen].sum(axis=1))
            weights = weights / weights.sum(axis=1, keepdims=True) * chosen[:, None] / count
            inputs = {
                "target_tokens": TensorData.of(likeliest[:, :, 0].astype(np.int64)),
                "weights": TensorData.of(weights.astype(np.float32)),
            }
            data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
        return data, "cross_entropy", float(np.concatenate(mass).mean())

    return step


def train(engine: BareEngine, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run of ours."""
    from crucible_train.types import AdamParams

    teacher = engine.sampler(options.teacher)
    made = (on_policy if options.mode == "on_policy" else off_policy)(engine, teacher)
    adam = AdamParams(
        learning_rate=1e-5, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0
    )

    def step(number: int) -> dict[str, float]:
        data, loss, quality = made(number)
        done = engine.client.forward_backward(data, loss)
        engine.client.optim_step(adam).result()
        value = float(done.result().metrics["loss:sum"])
        return {"loss": value if loss == "cross_entropy" else quality, "quality": quality}

    steps = Steps(options.warm)
    for number in range(options.steps):
        steps.measure(lambda number=number: step(number))  # type: ignore[misc]
    return {"step_cpu_s": steps.median("cpu_s"), "step_s": steps.median("wall_s"), "loss": steps.mean("loss")}


def main(arguments: Sequence[str]) -> int:
    """One run of ours; its figures are the last line."""
    description = (__doc__ or "").splitlines()[0]
    run_ours(arguments_of(description, arguments, mode="on_policy", teacher="30m"), train)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
