"""Answers of the present weights to a few held-out prompts."""

from __future__ import annotations

import json

from pydantic import Field

from crucible_ir import Contract, EventType
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import EVAL_EXAMPLES, IN_FLIGHT, RENDERER, SESSION, STEP, TOKENIZER
from crucible_train.renderers import message_from_dict
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
    reads = (SESSION, EVAL_EXAMPLES, RENDERER, TOKENIZER, STEP, IN_FLIGHT)
    options_model = SampleTextsOptions

    async def run(self, ctx: StageContext) -> None:
        """One answer to each of the first held-out conversations, up to their last turn."""
        examples = ctx.get(EVAL_EXAMPLES)[: self.options.prompts]
        if not examples:
            return
        await ctx.get(IN_FLIGHT).settle()
        renderer, step = ctx.get(RENDERER), ctx.get(STEP)
        sampler = await ctx.get(SESSION).sampling_client()
        lines = []
        try:
            for number, example in enumerate(examples):
                *prompt, reference = example.messages
                response = await sampler.sample(
                    renderer.build_generation_prompt([message_from_dict(message) for message in prompt]),
                    SamplingParams(
                        max_tokens=self.options.max_tokens,
                        temperature=self.options.temperature,
                        seed=int(ctx.rng("sample_texts", number).integers(2**31)),
                        stop=renderer.stop_sequences,
                    ),
                )
                answer = ctx.get(TOKENIZER).decode(response.sequences[0].tokens)
                line = {
                    "example_id": example.example_id,
                    "step": step,
                    "prompt": prompt,
                    "reference": reference,
                    "answer": answer,
                }
                lines.append(json.dumps(line, ensure_ascii=False))
        finally:
            await sampler.close()
        name = f"results/samples_{step:06d}.jsonl"
        write_lines(ctx.run_dir / name, lines)
        ctx.emit(
            EventType.EVALUATION_COMPLETED,
            {"evaluator": self.name, "step": step, "examples": len(lines), "results": name},
        )
