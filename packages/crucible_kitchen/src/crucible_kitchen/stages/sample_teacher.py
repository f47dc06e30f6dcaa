"""Let the teachers answer every prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import Contract, DatasetSnapshot, digest_of
from crucible_kitchen.atomic import read_lines, write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.prompt_rows import prompt_of
from crucible_kitchen.stages.keys import PROVENANCE, SOURCES, TEACHERS
from crucible_kitchen.stages.sources import Source
from crucible_kitchen.stages.teacher import Teacher
from crucible_train.ports import CompletionResponse, Handle
from crucible_train.rendered_completer import RenderedCompleter
from crucible_train.renderers import message_from_dict, message_to_dict
from crucible_train.types import SamplingParams

__all__ = ["SampleTeacher", "SampleTeacherOptions"]


class SampleTeacherOptions(Contract):
    """How the teacher answers."""

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    in_flight: int = Field(default=64, ge=1)
    """Requests submitted before the oldest is awaited; does not change the answers."""


class SampleTeacher(Stage):
    """Put the teacher's answer in place of the last assistant turn of every conversation."""

    name = "sample_teacher"
    reads = (SOURCES, TEACHERS, PROVENANCE)
    writes = (SOURCES, PROVENANCE)
    options_model = SampleTeacherOptions
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """Answers are kept in the run's folder, so that a resumed run trains on the same ones."""
        taught, provenance = list[Source](), ctx.get(PROVENANCE).copy()
        sources, teachers = ctx.get(SOURCES), ctx.get(TEACHERS)
        for number, (source, teacher) in enumerate(zip(sources, teachers, strict=True)):
            ending = f"_{number}" if number else ""
            rows = await self._taught(ctx, teacher, source.rows, f"train{ending}")
            answers, held_out = {"train": rows.ref.transform_digest}, source.held_out
            if held_out is not None:
                held_out = await self._taught(ctx, teacher, held_out, f"held_out{ending}")
                answers["held_out"] = held_out.ref.transform_digest
            provenance[f"answers{ending}"] = answers
            taught.append(Source(name=source.name, rows=rows, held_out=held_out))
        ctx.set(SOURCES, taught)
        ctx.set(PROVENANCE, provenance)

    async def _taught(
        self, ctx: StageContext, teacher: Teacher, snapshot: DatasetSnapshot, role: str
    ) -> DatasetSnapshot:
        options = self.options
        recipe = digest_of(
            [
                snapshot.ref.model_dump(mode="json"),
                teacher.digest,
                options.max_tokens,
                options.temperature,
                ctx.experiment.seed,
            ]
        )
        path = ctx.run_dir / "results" / f"teacher_{role}.jsonl"
        rows = _kept(path, recipe)
        if rows is None:
            rows = await self._sampled(ctx, teacher, snapshot, role)
            lines = [
                json.dumps({"recipe": recipe}),
                *(ctx.redact(json.dumps(row, ensure_ascii=False)) for row in rows),
            ]
            write_lines(path, lines)
            rows = [json.loads(line) for line in lines[1:]]  # as a resumed run reads them
        ctx.emit(
            "teacher.sampled", {"role": role, "rows": len(rows), "teacher": teacher.name, "digest": recipe}
        )
        ref = snapshot.ref.model_copy(update={"transform_digest": recipe})
        return DatasetSnapshot(ref=ref, rows=rows, drops=snapshot.drops)

    async def _sampled(
        self, ctx: StageContext, teacher: Teacher, snapshot: DatasetSnapshot, role: str
    ) -> list[dict[str, Any]]:
        pending: list[tuple[list[dict[str, Any]], Handle[CompletionResponse]]] = []
        rows: list[dict[str, Any]] = []
        for number, row in enumerate(snapshot.rows):
            prompt = prompt_of(row, where=f"{snapshot.ref.id}, row {number} after ordering")
            asked = self._asked(teacher, prompt, ctx.rng(f"sample_teacher/{role}", number))
            pending.append((prompt, asked))
            if len(pending) == self.options.in_flight:
                rows.append(await _answered(*pending.pop(0)))
                ctx.publish("sampling the teacher", {"done": len(rows), "of": len(snapshot.rows)})
        for prompt, handle in pending:
            rows.append(await _answered(prompt, handle))
            ctx.publish("sampling the teacher", {"done": len(rows), "of": len(snapshot.rows)})
        return rows

    def _asked(
        self, teacher: Teacher, prompt: list[dict[str, Any]], rng: np.random.Generator
    ) -> Handle[CompletionResponse]:
        return RenderedCompleter(teacher.sampler, teacher.speaks()).complete(
            [message_from_dict(message) for message in prompt],
            SamplingParams(
                max_tokens=self.options.max_tokens,
                temperature=self.options.temperature,
                seed=int(rng.integers(2**31)),
            ),
        )


async def _answered(prompt: list[dict[str, Any]], handle: Handle[CompletionResponse]) -> dict[str, Any]:
    (answer,) = (await handle).completions
    return {
        "messages": [*prompt, message_to_dict(answer.message)],
        "prompt_id": example_id({"messages": prompt}),
    }


def _kept(path: Path, recipe: str) -> list[dict[str, Any]] | None:
    """Answers that this run sampled before by the same recipe."""
    if not path.is_file():
        return None
    head, *lines = read_lines(path)
    return [json.loads(line) for line in lines] if json.loads(head) == {"recipe": recipe} else None
