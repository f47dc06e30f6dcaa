"""Upstream's own training loops, set up as in the recorded runs, and what they ask in the words of the record."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
from pathlib import Path
from typing import Any

import chz
from tinker_cookbook.distillation import train_off_policy, train_on_policy
from tinker_cookbook.distillation.datasets import (
    DistillationDatasetConfig,
    PromptOnlyDataset,
    TeacherConfig,
)
from tinker_cookbook.preference import train_dpo
from tinker_cookbook.preference.dpo_datasets import DPODatasetBuilderFromComparisons
from tinker_cookbook.preference.preference_datasets import ComparisonDatasetBuilder
from tinker_cookbook.preference.types import Comparison, LabeledComparison
from tinker_cookbook.recipes.math_rl.arithmetic_env import ArithmeticDatasetBuilder
from tinker_cookbook.renderers import TrainOnWhat, get_renderer
from tinker_cookbook.rl import train as rl_train
from tinker_cookbook.rl.types import RLDatasetBuilder
from tinker_cookbook.supervised import train as supervised_train
from tinker_cookbook.supervised.data import FromConversationFileBuilder
from tinker_cookbook.supervised.types import ChatDatasetBuilderCommonConfig
from tinker_cookbook.tokenizer_utils import get_tokenizer

from crucible_gateway.tinker.schema import messages

__all__ = ["FLOWS", "metrics_of", "said"]

RENDERER = "role_colon"
CONVERSATIONS = importlib.resources.files("tinker_cookbook") / "example_data" / "conversations.jsonl"


def common(model: str, batch_size: int, weights: TrainOnWhat | None = None) -> ChatDatasetBuilderCommonConfig:
    return ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=model,
        renderer_name=RENDERER,
        max_length=2048,
        batch_size=batch_size,
        train_on_what=weights or TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    )


def usual(models: dict[str, str], log: Path, **more: Any) -> dict[str, Any]:
    return {
        "log_path": str(log),
        "model_name": models["student"],
        "recipe_name": "t",
        "renderer_name": RENDERER,
        "learning_rate": 1e-4,
        "lora_rank": 8,
        **more,
    }


async def supervised(models: dict[str, str], log: Path) -> None:
    dataset = FromConversationFileBuilder(
        common_config=common(models["student"], 8), file_path=str(CONVERSATIONS), test_size=16
    )
    settings = usual(models, log, dataset_builder=dataset, num_epochs=2, save_every=5, eval_every=4)
    await supervised_train.main(supervised_train.Config(**settings))


@chz.chz
class Pairs(ComparisonDatasetBuilder):
    """Pairs of answers from the example conversations."""

    def get_train_and_test_datasets(self) -> tuple[Any, Any]:
        import datasets

        rows = [json.loads(line) for line in CONVERSATIONS.read_text(encoding="utf-8").splitlines()]
        answered = [
            (row["messages"][:-1], row["messages"][-1])
            for row in rows
            if row["messages"][-1]["role"] == "assistant"
        ]
        texts = [
            json.dumps([prompt, chosen, answered[-1 - n][1]]) for n, (prompt, chosen) in enumerate(answered)
        ]
        made = datasets.Dataset.from_dict({"pair": texts[:96]})
        return made.select(range(48)), made.select(range(48, 96))

    def example_to_labeled_comparison(self, example: dict[str, str]) -> LabeledComparison:
        prompt, chosen, rejected = json.loads(example["pair"])
        comparison = Comparison(prompt_conversation=prompt, completion_A=[chosen], completion_B=[rejected])
        return LabeledComparison(comparison=comparison, label="A")


def preference(models: dict[str, str], log: Path) -> None:
    dataset = DPODatasetBuilderFromComparisons(
        common_config=common(models["student"], 8, TrainOnWhat.LAST_ASSISTANT_MESSAGE),
        comparison_builder=Pairs(),
    )
    train_dpo.main(
        train_dpo.Config(
            **usual(models, log, dataset_builder=dataset, dpo_beta=0.1, save_every=2, eval_every=3)
        )
    )


def reinforcement(**more: Any) -> Any:
    async def run(models: dict[str, str], log: Path) -> None:
        dataset = ArithmeticDatasetBuilder(
            batch_size=4,
            model_name_for_tokenizer=models["student"],
            renderer_name=RENDERER,
            n_batches=6,
            group_size=4,
        )
        chosen = {
            key: value(models) if callable(value) and not isinstance(value, type) else value
            for key, value in more.items()
        }
        settings = usual(
            models, log, dataset_builder=dataset, max_tokens=5, save_every=2, eval_every=0, **chosen
        )
        await rl_train.main(rl_train.Config(**settings))

    return run


@chz.chz
class Prompts(RLDatasetBuilder):
    """A few prompts without answers."""

    name: str
    model: str

    async def __call__(self) -> tuple[Any, None]:
        tokenizer = get_tokenizer(self.model)
        prompts = [f"Tell me about {self.name} {number}." for number in range(8)]
        renderer = get_renderer(RENDERER, tokenizer=tokenizer)
        return PromptOnlyDataset(prompts, 2, 4, renderer, tokenizer, dataset_name=self.name), None


async def on_policy(models: dict[str, str], log: Path) -> None:
    datasets = [
        DistillationDatasetConfig(
            dataset_builder=Prompts(name=name, model=models["student"]),
            teacher_config=TeacherConfig(base_model=models[teacher]),
            groups_per_batch=2,
        )
        for name, teacher in (("a", "teacher"), ("b", "student"))
    ]
    settings = usual(models, log, dataset_configs=datasets, max_tokens=6, save_every=2, eval_every=0)
    await train_on_policy.main(train_on_policy.Config(**settings))


async def off_policy(models: dict[str, str], log: Path) -> None:
    dataset = FromConversationFileBuilder(
        common_config=common(models["student"], 8), file_path=str(CONVERSATIONS), test_size=0
    )
    domain = train_off_policy.DatasetWithTeacher(
        dataset_builder=dataset, teacher_config=TeacherConfig(base_model=models["teacher"])
    )
    settings = usual(
        models, log, dataset_configs=[domain], n_teacher_targets=4, batch_size=8, max_steps=7, save_every=3
    )
    await train_off_policy.main(train_off_policy.Config(**settings))


FLOWS: dict[str, Any] = {
    "sl": supervised,
    "dpo": preference,
    "rl": reinforcement(),
    "rl_sub": reinforcement(num_substeps=2, loss_fn="ppo", compute_post_kl=True),
    "rl_kl": reinforcement(
        kl_penalty_coef=0.1,
        kl_reference_config=lambda models: rl_train.KLReferenceConfig(base_model=models["student"]),
    ),
    "rl_rm": reinforcement(remove_constant_reward_groups=True),
    "rl_cispo": reinforcement(
        loss_fn="cispo", loss_fn_config={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}
    ),
    "rl_stream": reinforcement(
        stream_minibatch_config=rl_train.StreamMinibatchConfig(groups_per_batch=4, num_minibatches=2)
    ),
    "rl_async": reinforcement(
        async_config=rl_train.AsyncConfig(
            max_steps_off_policy=2, groups_per_batch=4, loss_fn="importance_sampling"
        )
    ),
    "on_policy": on_policy,
    "off_policy": off_policy,
}


def run(name: str, models: dict[str, str], log: Path) -> None:
    """Run one of upstream's loops to its end."""
    made = FLOWS[name](models, log)
    if made is not None:
        asyncio.run(made)


def metrics_of(log: Path) -> list[dict[str, Any]]:
    """What the loop wrote."""
    lines = (log / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def said(asked: list[tuple[str, str, bytes]], models: dict[str, str]) -> list[str]:
    """Requests in the words of the record: one line each, equal neighbours as one with a number."""
    lines: list[str] = []
    session = ""
    for method, path, body in asked:
        line = _line(method, path, body)
        if not session and path == "create_model":
            session = json.loads(body)["session_id"]
        line = line.replace(session, "sess1") if session else line
        line = line.replace(models["student"], "Mini/mini").replace(models["teacher"], "Mini/teacher")
        lines.append(line)
    found: list[list[Any]] = []
    for line in lines:
        if found and found[-1][0] == line:
            found[-1][1] += 1
        else:
            found.append([line, 1])
    return [line if count == 1 else f"{line} x{count}" for line, count in found]


def _line(method: str, path: str, body: bytes) -> str:
    if method == "GET":
        return f"GET {path}"
    if path == "forward_backward":
        return _training(body)
    b = json.loads(body or b"{}")
    if path == "create_session":
        return f"{path} display_name={b.get('display_name')} user_metadata={b.get('user_metadata')}"
    if path == "create_model":
        return f"{path} {b['base_model']} lora={b['lora_config']} user_metadata={b.get('user_metadata')}"
    if path.startswith("save_weights"):
        return (
            f"{path} name={b.get('path')} ttl={b.get('ttl_seconds')} kind={b.get('kind')} "
            f"overwrite={b.get('overwrite')} user_metadata={b.get('user_metadata')}"
        )
    if path == "asample":
        p = b["sampling_params"]
        return (
            f"{path} n={b['num_samples']} max_tokens={p['max_tokens']} T={p['temperature']} stop={p.get('stop')} "
            f"prompt_logprobs={b['prompt_logprobs']} topk={b['topk_prompt_logprobs']} "
            f"stability={b['record_stability_info']}"
        )
    if path == "optim_step":
        a = b["adam_params"]
        return (
            f"{path} lr={a['learning_rate']:.8g} b1={a['beta1']} b2={a['beta2']} eps={a['eps']:g} "
            f"wd={a['weight_decay']} clip={a['grad_clip_norm']}"
        )
    if path == "create_sampling_session":
        return f"{path} base={b.get('base_model')} path={b.get('model_path')}"
    return path


def _training(body: bytes) -> str:
    message = messages().ForwardBackwardRequest.FromString(body)
    tokens = sum(len(c.encoded_text.tokens) // 4 for datum in message.data for c in datum.model_input)
    first = message.data[0].loss_fn_inputs
    spans = sum(bool(datum.model_input_spans) for datum in message.data)
    config = {key: value.number for key, value in message.loss_fn_config_v2.items()}
    name = "forward" if message.forward_only else "forward_backward"
    return (
        f"{name}[{message.loss_fn}] n={len(message.data)} tokens={tokens} keys={','.join(sorted(first))} "
        f"shape0={list(first['target_tokens'].shape)} provenance={spans}"
        + (f" cfg={config}" if config else "")
    )
