"""A session of training that one process does alone or several do together: ``session_of_processes.py SETTINGS.json``.

What it finds goes to ``found.json`` in its folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crucible_ir import CrucibleError
from crucible_torch import LocalBackend
from crucible_torch.checkpoint import read_checkpoint
from crucible_train.ports import CustomLoss, TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, SamplingParams, TensorData

KINDS = ("cross_entropy", "importance_sampling", "custom", "ppo", "gspo")


def data_of(step: int, count: int, *, policy: bool, longest: int) -> list[Datum]:
    """Examples of many lengths; of a policy step some have no advantage, hence no gradient."""
    rng = np.random.Generator(np.random.PCG64([7, step]))
    data = []
    for _ in range(count):
        length = int(rng.integers(4, longest))
        tokens = rng.integers(3, 300, length + 1)
        inputs = {"target_tokens": TensorData.of(tokens[1:])}
        if policy:
            advantage = 0.0 if rng.random() < 0.4 else float(rng.normal())
            inputs["advantages"] = TensorData.of(np.full(length, advantage, dtype=np.float32))
            inputs["sequence_ratio_mask"] = TensorData.of(np.ones(length, dtype=np.float32))
            inputs["logprobs"] = TensorData.of(rng.uniform(-7, -5, length).astype(np.float32))
        else:
            inputs["weights"] = TensorData.of((rng.random(length) < 0.7).astype(np.float32))
        data.append(Datum(ModelInput.from_ints(tokens[:-1].tolist()), inputs))
    return data


def bradley_terry(data: Sequence[Datum], logprobs: Sequence[Any]) -> CustomLoss:
    """−log σ(difference of the sums of neighbours), whose gradient depends on both."""
    sums = [float(lp.sum()) for lp in logprobs]
    slopes: list[Any] = []
    loss = 0.0
    for first, second in zip(sums[::2], sums[1::2], strict=True):
        chance = 1 / (1 + np.exp(-(first - second) / 50))
        loss -= float(np.log(chance))
        slopes += [(chance - 1) / 50, (1 - chance) / 50]
    gradients = [np.where(lp != 0, s, 0).astype(np.float32) for s, lp in zip(slopes, logprobs, strict=True)]
    return CustomLoss(loss=loss, gradients=gradients, metrics={"pairs": float(len(sums) // 2)})


async def train(client: Any, steps: range, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Losses, norms and log-probabilities of ``steps``; a state in the middle and one at the end."""
    rows = []
    for step in steps:
        kind = KINDS[step % len(KINDS)]
        data = data_of(
            step, 8, policy=kind in ("importance_sampling", "ppo", "gspo"), longest=settings["longest"]
        )
        if kind == "custom":
            handle = client.forward_backward_custom(data, bradley_terry)
        else:
            handle = client.forward_backward(data, kind)
        stepped = client.optim_step(AdamParams(learning_rate=settings["rate"], grad_clip_norm=1.0))
        output, applied = await handle, await stepped
        rows.append(
            {
                "kind": kind,
                "metrics": dict(output.metrics),
                "norm": applied.metrics["unclipped_grad_l2:mean"],
                "logprobs": [o["logprobs"].array.tolist() for o in output.loss_fn_outputs],
            }
        )
        if step + 1 == settings["steps"] // 2:
            await client.save_state("middle")
    await client.save_state("end")
    await client.save_weights_for_sampler("final")
    scored = await client.forward(data_of(999, 3, policy=False, longest=settings["longest"]))
    return {"rows": rows, "scored": [o["logprobs"].array.tolist() for o in scored.loss_fn_outputs]}


async def sampled(client: Any) -> list[int]:
    sampler = await client.sampling_client()
    response = await sampler.sample(ModelInput.from_ints([5, 6, 7]), SamplingParams(max_tokens=6, seed=1))
    await sampler.close()
    return list(response.sequences[0].tokens)


async def faults(client: Any) -> dict[str, str]:
    """What is told of a bad datum wherever it is, of a custom loss that raises, and of a step without gradients."""

    def broken(data: Any, logprobs: Any) -> CustomLoss:
        raise ValueError("of the caller's own")

    told = {}
    data = data_of(0, 8, policy=False, longest=20)
    for place in range(len(data)):
        weights = TensorData.of(np.full(data[place].model_input.length, np.inf, dtype=np.float32))
        inputs = {**data[place].loss_fn_inputs, "weights": weights}
        bad = [*data[:place], Datum(data[place].model_input, inputs), *data[place + 1 :]]
        told[f"place {place}"] = await error_of(client.forward_backward(bad))
    told["custom"] = await error_of(client.forward_backward_custom(data, broken))
    told["no gradients"] = await error_of(client.optim_step(AdamParams()))
    return told


async def error_of(handle: Any) -> str:
    try:
        await handle
    except (CrucibleError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def session(backend: LocalBackend, settings: dict[str, Any]) -> dict[str, Any]:
    """LoRA and full fine-tuning from nothing and, where there is one, from another session's middle."""
    found: dict[str, Any] = {}
    for name, lora in (("lora", LoraConfig(rank=4)), ("full", None)):
        folder = Path(settings["folder"]) / name
        spec = TrainingSpec(base_model=settings["model"], lora=lora, seed=2, checkpoint_dir=folder)
        client = await backend.create_training_client(spec)
        if settings["fresh"]:
            found[name] = await train(client, range(settings["steps"]), folder, settings)
            found[name]["sampled"] = await sampled(client)
            found[name]["faults"] = await faults(client)
            found[name]["after"] = (
                await client.forward_backward(data_of(1, 3, policy=False, longest=20))
            ).metrics
        await client.close()
        if settings["others"] is not None:
            again = Path(settings["folder"]) / f"{name}-resumed"
            spec = TrainingSpec(base_model=settings["model"], lora=lora, seed=9, checkpoint_dir=again)
            client = await backend.create_training_client(spec)
            await client.load_state(read_checkpoint(Path(settings["others"]) / name / "middle").ref)
            half = range(settings["steps"] // 2, settings["steps"])
            found[f"{name}-resumed"] = await train(client, half, again, settings)
            await client.close()
    return found


def main(settings: dict[str, Any]) -> None:
    """Lead, or follow who leads."""
    backend = LocalBackend(
        device="cpu",
        num_threads=1,
        micro_batch_tokens=settings["micro_batch_tokens"],
        head_rows=16,
        local_files_only=True,
        peer_timeout_s=60,
    )
    if backend.follows:
        backend.follow()
        return

    async def whole() -> dict[str, Any]:
        try:
            return await session(backend, settings)
        finally:
            await backend.close()

    found = asyncio.run(whole())
    (Path(settings["folder"]) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
