"""Preference optimisation, pairs per second: the prompt of a pair computed once, the reference scored beforehand.

    python -m benchmarks run preference --case 30m
    python -m benchmarks.preference ours --size 30m         one run of ours

The floor is ``floor_dpo.py`` in bfloat16 with a shared prompt and a cached reference, the peer TRL's ``DPOTrainer``
with bfloat16 autocast. All read the same pairs, four a step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import neighbours
from benchmarks.bare_engine import BareEngine, Steps, arguments_of, run_ours, yardstick
from benchmarks.contest import Case, Guard, Workload

__all__ = ["WORKLOAD", "cases", "main"]

STEPS = {"5m": (8, 2), "30m": (7, 2), "120m": (4, 1)}
BATCH = 4


def cases(labels: Sequence[str]) -> list[Case]:
    """The named sizes; all without names."""
    return [_case(label) for label in labels or STEPS]


def _case(size: str) -> Case:
    steps, warm = STEPS[size]
    shape = ("--size", size, "--steps", str(steps), "--warm", str(warm))
    shared = ("--variant", "bf16", "--share", "1", "--refcache", "1")
    return Case(
        label=size,
        contestants=(
            neighbours.ours("benchmarks.preference", *shape),
            neighbours.floor("floor_dpo.py", *shape, *shared),
            *neighbours.peer("peer_dpo.py", *shape, "--variant", "autocast"),
        ),
        guard=Guard(
            key="loss_last",
            band=0.02,
            reference=neighbours.ours("benchmarks.preference", *shape, "--dtype", "float32", name="float32"),
        ),
    )


WORKLOAD = Workload(
    name="preference",
    title="Preference optimisation",
    measure="pairs_per_cpu_s",
    unit="pairs per second of processor time",
    cases=cases,
    goals={"floor": 0.9, "TRL": 2.8},
    also=("pairs_per_s", "peak_rss_mb"),
)


def pairs() -> list[tuple[Any, Any]]:
    """Datums of chosen and rejected completions, as the floor reads them."""
    from crucible_train.types import Datum, ModelInput, TensorData

    common = yardstick()
    tokenizer = common.tokenizer()

    def render(messages: list[Any], **more: Any) -> list[int]:
        return list(
            tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **more)["input_ids"]
        )

    def datum(prompt: list[int], answer: list[int]) -> Datum:
        tokens = prompt + answer[: common.MAX_LEN - len(prompt)]
        weights = [0.0] * (len(prompt) - 1) + [1.0] * (len(tokens) - len(prompt))
        inputs = {"target_tokens": TensorData.of(tokens[1:]), "weights": TensorData.of(weights)}
        return Datum(ModelInput.from_ints(tokens[:-1]), inputs)

    made = []
    for pair in common.preferences(1000)[:200]:
        prompt = render(pair["prompt"], add_generation_prompt=True)
        whole = (render(pair["prompt"] + pair[side])[len(prompt) :] for side in ("chosen", "rejected"))
        chosen, rejected = (datum(prompt, answer) for answer in whole)
        made.append((chosen, rejected))
    return made


def train(engine: BareEngine, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run of ours."""
    from crucible_train.preference import DpoSettings, dpo_loss, sequence_logprobs
    from crucible_train.types import AdamParams

    data = pairs()
    starts = [(number * BATCH) % 192 for number in range(options.steps)]
    batches = [[datum for pair in data[start : start + BATCH] for datum in pair] for start in starts]
    references = [
        sequence_logprobs(batch, engine.client.forward(batch).result().logprobs).reshape(-1, 2)
        for batch in batches
    ]
    adam = AdamParams(
        learning_rate=1e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0
    )
    settings = DpoSettings(beta=0.1, label_smoothing=0.0, loss="sigmoid")
    steps = Steps(options.warm)
    for batch, reference in zip(batches, references, strict=True):

        def step(batch: Any = batch, reference: Any = reference) -> dict[str, float]:
            done = engine.client.forward_backward_custom(batch, dpo_loss(reference, settings))
            engine.client.optim_step(adam).result()
            return {"loss": float(done.result().metrics["loss:sum"])}

        steps.measure(step)
    return {
        "pairs_per_cpu_s": BATCH / steps.median("cpu_s"),
        "pairs_per_s": BATCH / steps.median("wall_s"),
        "loss_first": steps.rows[0]["loss"],
        "loss_last": steps.rows[-1]["loss"],
    }


def main(arguments: Sequence[str]) -> int:
    """One run of ours; its figures are the last line."""
    run_ours(arguments_of((__doc__ or "").splitlines()[0], arguments), train)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
