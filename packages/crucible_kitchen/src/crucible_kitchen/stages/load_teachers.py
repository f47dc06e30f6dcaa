"""Open the models that teach."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from crucible_ir import CheckpointRef, ConfigError, Contract, NotFoundError, Problem, digest_of
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.capability import lacking
from crucible_kitchen.stages.init_tokenizer import renderer_problems
from crucible_kitchen.stages.keys import PROVENANCE, TEACHERS
from crucible_kitchen.stages.provenance import require_same
from crucible_kitchen.stages.teacher import Teacher
from crucible_train.ports import Tokenizer, TrainingBackend, TrainingSpec
from crucible_train.renderers import get_renderer, recommended_renderer
from crucible_train.types import LoraConfig

__all__ = ["LoadTeachers", "LoadTeachersOptions", "TeacherOptions"]


class TeacherOptions(Contract):
    """Which model teaches."""

    model: str
    """Folder or hub id of the teacher's base model."""
    weights: str | None = None
    """Folder of weights that a run saved (``checkpoints/final``); None takes the base model as it is."""
    renderer: str | None = None
    """The chat format in which it answers; None takes the one recommended for its model."""

    @property
    def name(self) -> str:
        """The model, and its weights if they are not the base model's."""
        return self.model if self.weights is None else f"{self.model} with {self.weights}"


class LoadTeachersOptions(Contract):
    """Which models teach, and what is asked of them."""

    teachers: tuple[TeacherOptions, ...] = Field(min_length=1)
    """One for each source, in order; equal ones are opened once."""
    answers: bool = True
    """They answer prompts in their own chat format."""
    scores: bool = False
    """They score the student's tokens, so that their tokenizers must be the student's."""
    likeliest: int = Field(default=0, ge=0)
    """Likeliest tokens that they name at each position."""


class LoadTeachers(Stage):
    """Open the models that teach, one for each source."""

    name = "load_teachers"
    optional_reads = (PROVENANCE,)
    writes = (TEACHERS, PROVENANCE)
    ports = ("training_backend",)
    options_model = LoadTeachersOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Models and weights are there, renderers are known, and the backend gives what is asked of a teacher."""
        options: LoadTeachersOptions = self.options
        backend: TrainingBackend = plan.ports.get("training_backend")
        problems = list(self._lacking(backend))
        for number, teacher in enumerate(options.teachers):
            where = f"{plan.path}.options.teachers[{number}]"
            backend.check(
                TrainingSpec(
                    base_model=teacher.model,
                    lora=LoraConfig(rank=1),
                    seed=0,
                    checkpoint_dir=Path("checkpoints"),
                )
            )
            if teacher.weights is not None and not Path(teacher.weights, "manifest.json").is_file():
                raise NotFoundError(
                    what=f"no saved weights in {teacher.weights!r}",
                    where=f"{where}.weights",
                    remedy="name the folder of weights that a run saved, such as …/checkpoints/final",
                )
            if options.answers:
                problems += renderer_problems(teacher.renderer, teacher.model, where=f"{where}.renderer")
        return problems

    def _lacking(self, backend: TrainingBackend) -> list[Problem]:
        asked = {
            "sampling": self.options.answers,
            "prompt_logprobs": self.options.scores and not self.options.likeliest,
            "topk_prompt_logprobs": self.options.likeliest > 0,
        }
        return lacking(backend, asked, asked_of="the teacher")

    async def run(self, ctx: StageContext) -> None:
        """Tokenizers are compared before any weights are loaded; teachers are closed when the run ends.

        Raises:
            ConfigError: a teacher that scores the student's tokens has another tokenizer.
            IntegrityError: a teacher is not the one that the resumed run began with.
        """
        options: LoadTeachersOptions = self.options
        backend: TrainingBackend = ctx.port("training_backend")
        distinct = list(dict.fromkeys(options.teachers))
        tokenizers = [await backend.load_tokenizer(teacher.model) for teacher in distinct]
        if options.scores:
            await self._compare(ctx, backend, list(zip(distinct, tokenizers, strict=True)))
        provenance, opened = ctx.find(PROVENANCE, {}).copy(), dict[TeacherOptions, Teacher]()
        for teacher, tokenizer in zip(distinct, tokenizers, strict=True):
            opened[teacher] = await self._opened(ctx, backend, teacher, tokenizer)
        for number, teacher in enumerate(options.teachers):
            key = f"teacher_{number}" if number else "teacher"
            fact = {"id": teacher.name, "digest": opened[teacher].digest}
            require_same(key, provenance.get(key), fact)
            provenance[key] = fact
        ctx.set(TEACHERS, [opened[teacher] for teacher in options.teachers])
        ctx.set(PROVENANCE, provenance)

    async def _compare(
        self, ctx: StageContext, backend: TrainingBackend, found: list[tuple[TeacherOptions, Tokenizer]]
    ) -> None:
        model = ctx.experiment.model
        assert model is not None
        own = await backend.load_tokenizer(model.uri or model.id)
        for teacher, tokenizer in found:
            if tokenizer.digest != own.digest:
                raise ConfigError(
                    what=f"teacher {teacher.model!r} has another tokenizer than student {model.id!r} "
                    f"({tokenizer.digest[:19]}…, not {own.digest[:19]}…), so it cannot score the student's tokens",
                    where="teacher",
                    remedy="choose a teacher with the student's tokenizer, or let it write answers that are learned "
                    "as text (mode=off_policy n_teacher_targets=0)",
                )

    async def _opened(
        self, ctx: StageContext, backend: TrainingBackend, teacher: TeacherOptions, tokenizer: Tokenizer
    ) -> Teacher:
        weights, manifest = None, None
        if teacher.weights is not None:
            folder = Path(teacher.weights)
            weights = CheckpointRef(id=folder.name, path=str(folder), content="sampler")
            manifest = (folder / "manifest.json").read_text("utf-8")
        sampler = await backend.create_sampling_client(teacher.model, weights)
        ctx.defer(sampler.close)
        renderer = None
        if self.options.answers:
            renderer = get_renderer(teacher.renderer or recommended_renderer(teacher.model), tokenizer)
        base = backend.model_digest(teacher.model)
        parts = [base, manifest, tokenizer.digest, renderer.digest if renderer else None]
        made = Teacher(name=teacher.name, digest=digest_of(parts), sampler=sampler, renderer=renderer)
        ctx.emit("model.loaded", {"role": "teacher", "model": made.name, "digest": made.digest})
        return made
