"""Load the tokenizer and choose the renderer."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from crucible_ir import Contract, Problem, nearest
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import PROVENANCE, RENDERER, TOKENIZER
from crucible_kitchen.stages.provenance import require_same
from crucible_train.ports import TrainingBackend
from crucible_train.renderers import get_renderer, recommended_renderer, renderer_names

__all__ = ["InitTokenizer", "InitTokenizerOptions", "renderer_problems"]


class InitTokenizerOptions(Contract):
    """Which renderer."""

    renderer: str | None = Field(default=None)
    """Name of the renderer; None takes the one recommended for the model."""


def renderer_problems(chosen: str | None, model: str | None, *, where: str) -> list[Problem]:
    """What is wrong with a chosen renderer; without one, a renderer must be recommended for ``model``.

    Raises:
        ConfigError: none is recommended.
    """
    known = renderer_names()
    if chosen is not None and chosen not in known:
        near = nearest(chosen, known)
        remedy = f"did you mean {near!r}?" if near else f"it is one of {', '.join(sorted(known))}"
        return [Problem(path=where, message=f"unknown renderer {chosen!r}", remedy=remedy)]
    if chosen is None and model is not None:
        recommended_renderer(model)
    return []


class InitTokenizer(Stage):
    """Load the base model's tokenizer and choose the renderer."""

    name = "init_tokenizer"
    reads = (PROVENANCE,)
    writes = (TOKENIZER, RENDERER, PROVENANCE)
    ports = ("training_backend",)
    options_model = InitTokenizerOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The renderer is known, or one is recommended for the model."""
        model = plan.experiment.model
        name = model.id if model is not None else None
        return renderer_problems(self.options.renderer, name, where=f"{plan.path}.options.renderer")

    async def run(self, ctx: StageContext) -> None:
        """Load both and note their digests.

        Raises:
            IntegrityError: one of them is not what the resumed run began with.
            RenderError: the vocabulary lacks what ends an answer in the renderer's format; nothing is spent yet.
        """
        backend: TrainingBackend = ctx.port("training_backend")
        model = ctx.experiment.model
        assert model is not None
        tokenizer = await backend.load_tokenizer(model.uri or model.id)
        name = self.options.renderer or recommended_renderer(model.id)
        ctx.set(TOKENIZER, tokenizer)
        renderer = get_renderer(name, tokenizer)
        ctx.set(RENDERER, renderer)
        facts = {
            "tokenizer": {"digest": tokenizer.digest},
            "renderer": {"name": name, "digest": renderer.digest},
        }
        provenance = ctx.get(PROVENANCE)
        for part, fact in facts.items():
            require_same(part, provenance.get(part), fact)
        ctx.set(PROVENANCE, provenance | facts)
        stop = list(renderer.stop_sequences)
        ctx.emit("tokenizer.loaded", {"digest": tokenizer.digest, "renderer": name, "stop": stop})
