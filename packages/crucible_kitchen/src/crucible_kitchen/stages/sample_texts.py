"""Answers of the present weights to a few held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from crucible_ir import Contract, EventType, Problem
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.capability import lacking
from crucible_kitchen.stages.examples import Example
from crucible_kitchen.stages.keys import EVAL_EXAMPLES, IN_FLIGHT, RENDERER, SESSION, STEP
from crucible_train.ports import Completer
from crucible_train.rendered_completer import RenderedCompleter
from crucible_train.renderers import Message, message_from_dict, message_to_dict
from crucible_train.types import SamplingParams

__all__ = ["SampleTexts", "SampleTextsOptions"]


class SampleTextsOptions(Contract):
    """How many prompts, and how long the answers."""

    prompts: int = Field(default=3, ge=0)
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)


class SampleTexts(Stage):
    """Answer a few held-out prompts, so that a person can look at what changed."""

    name = "sample_texts"
    reads = (SESSION, EVAL_EXAMPLES, RENDERER, STEP, IN_FLIGHT)
    ports = ("training_backend",)
    options_model = SampleTextsOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The backend can sample."""
        backend = plan.ports.get("training_backend")
        return lacking(backend, {"sampling": self.options.prompts > 0}, asked_of="held-out prompts")

    async def run(self, ctx: StageContext) -> None:
        """One answer to each of the first held-out conversations that leave room for one, up to their last turn."""
        chosen = self._chosen(ctx)
        if not chosen:
            return
        await ctx.get(IN_FLIGHT).settle()
        step = ctx.get(STEP)
        completer = RenderedCompleter(await ctx.get(SESSION).sampling_client(), ctx.get(RENDERER))
        try:
            lines = [
                ctx.redact(json.dumps(await self._answer(ctx, completer, n, example), ensure_ascii=False))
                for n, example in enumerate(chosen)
            ]
        finally:
            await completer.close()
        name = f"results/samples_{step:06d}.jsonl"
        write_lines(ctx.run_dir / name, lines)
        facts = {"evaluator": self.name, "step": step, "examples": len(lines), "results": name}
        ctx.emit(EventType.EVALUATION_COMPLETED, facts)

    def _chosen(self, ctx: StageContext) -> list[Example]:
        renderer, room = ctx.get(RENDERER), ctx.training.max_length - self.options.max_tokens
        chosen: list[Example] = []
        for example in ctx.get(EVAL_EXAMPLES):
            if len(chosen) == self.options.prompts:
                break
            if example.messages[-1].get("role") != "assistant" or len(example.messages) < 2:
                continue
            if renderer.build_generation_prompt(_asked(example)).length <= room:
                chosen.append(example)
        return chosen

    async def _answer(
        self, ctx: StageContext, completer: Completer, number: int, example: Example
    ) -> dict[str, Any]:
        params = SamplingParams(
            max_tokens=self.options.max_tokens,
            temperature=self.options.temperature,
            seed=int(ctx.rng("sample_texts", number).integers(2**31)),
        )
        (answer,) = (await completer.complete(_asked(example), params)).completions
        return {
            "example_id": example.example_id,
            "step": ctx.get(STEP),
            "prompt": list(example.messages[:-1]),
            "reference": example.messages[-1],
            "answer": message_to_dict(answer.message),
        }


def _asked(example: Example) -> list[Message]:
    """The conversation up to its last turn."""
    return [message_from_dict(message) for message in example.messages[:-1]]
