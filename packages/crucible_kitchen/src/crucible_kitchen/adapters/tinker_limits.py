"""What is known of the service before anything is submitted, so that what it cannot do is refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crucible_ir.errors import ConfigError, DataError, NotFoundError, Problem, nearest
from crucible_train.losses import LOSSES, find_loss
from crucible_train.ports import BackendCapabilities, TrainingSpec
from crucible_train.types import Datum, ImageChunk, LossConfig, ModelInput

__all__ = ["SCALE", "Limits", "ServedModel", "read_lacks"]

SCALE = 32.0
"""The alpha of every adapter on the service; its API has no setting for it."""
MOST_LIKELIEST = 1 << 20
"""No vocabulary is larger; the service has a bound of its own below."""
_OPTIONS = ("custom_loss", "prompt_logprobs", "topk_prompt_logprobs", "sampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What the service says of one base model; None where it says nothing."""

    name: str
    max_length: int | None
    trainable: bool
    sampleable: bool


def read_lacks(lacks: Iterable[str]) -> frozenset[str]:
    """Losses and options that the service at hand does not have.

    Raises:
        ConfigError: a name that is neither.
    """
    known = (*LOSSES, *_OPTIONS)
    problems = [
        Problem(
            path="lacks",
            message=f"{name!r} is no loss and no option",
            remedy=f"one of {', '.join(known)}"
            if nearest(name, known) is None
            else f"did you mean {nearest(name, known)!r}?",
        )
        for name in lacks
        if name not in known
    ]
    if problems:
        raise ConfigError(problems=problems)
    return frozenset(lacks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The models that are served, and what of the API is not."""

    models: tuple[ServedModel, ...]
    lacks: frozenset[str] = frozenset()
    images: bool = False

    def capabilities(self) -> BackendCapabilities:
        """What a run may count on. ``max_length`` is told where all models have the same."""
        sampling = "sampling" not in self.lacks and any(model.sampleable for model in self.models)
        scored = sampling and "prompt_logprobs" not in self.lacks
        lengths = {model.max_length for model in self.models}
        return BackendCapabilities(
            name="tinker",
            losses=frozenset(LOSSES) - self.lacks,
            custom_loss="custom_loss" not in self.lacks and "cross_entropy" not in self.lacks,
            sampling=sampling,
            prompt_logprobs=scored,
            topk_prompt_logprobs=scored and "topk_prompt_logprobs" not in self.lacks,
            images=self.images,
            max_length=lengths.pop() if len(lengths) == 1 else None,
        )

    def model(self, name: str) -> ServedModel:
        """The served model of that name; a suffix ``:…`` names a variant of it.

        Raises:
            NotFoundError: it is not served; names the nearest.
        """
        for wanted in (name, name.rpartition(":")[0]):
            for model in self.models:
                if wanted and model.name == wanted:
                    return model
        known = [model.name for model in self.models]
        near = nearest(name, known)
        raise NotFoundError(
            what=f"the service does not serve {name!r}",
            where="model",
            remedy=f"did you mean {near!r}?"
            if near
            else f"it serves {', '.join(sorted(known)) or 'nothing'}",
        )

    def check_sampled(self, name: str) -> None:
        """Whether the model is there and gives samples.

        Raises:
            NotFoundError: it is not served.
            ConfigError: it gives none.
        """
        if not self.model(name).sampleable or "sampling" in self.lacks:
            raise ConfigError(
                what=f"the service does not sample {name}",
                where="model",
                remedy="take another model, or a workflow without samples",
            )

    def check_spec(self, spec: TrainingSpec) -> None:
        """Whether the service can train what is asked for.

        Raises:
            NotFoundError: the model is not served.
            ConfigError: every other obstacle at once.
        """
        model = self.model(spec.base_model)
        problems: list[Problem] = []
        if not model.trainable:
            problems.append(
                Problem(
                    path="model",
                    message=f"{model.name} cannot be trained on the service",
                    remedy="take another",
                )
            )
        if spec.lora is None:
            problems.append(
                Problem(
                    path="training.lora",
                    message="the service trains adapters alone",
                    remedy="give lora settings",
                )
            )
        elif spec.lora.alpha != SCALE:
            problems.append(
                Problem(
                    path="training.lora.alpha",
                    message=f"alpha = {spec.lora.alpha:g}; adapters on the service have {SCALE:g}, for every rank",
                    remedy=f"leave it at {SCALE:g} and scale the learning rate",
                )
            )
        if spec.dtype != "auto":
            problems.append(
                Problem(
                    path="training.dtype", message="the service chooses its own", remedy="leave it at auto"
                )
            )
        if problems:
            raise ConfigError(problems=problems)

    def check_pass(
        self, data: Sequence[Datum], loss_fn: str, config: LossConfig | None, max_length: int | None
    ) -> LossConfig:
        """The loss's settings, each given, once the service can do the pass.

        Raises:
            ConfigError: a loss that is not there (``stable_reinforce`` by name), settings out of range, an image.
            DataError: no data, inputs that do not fit the loss, a datum longer than the model reads.
        """
        loss = find_loss(loss_fn)
        if loss_fn in self.lacks:
            known = sorted(frozenset(LOSSES) - self.lacks)
            raise ConfigError(
                what=f"the service has no loss {loss_fn!r}",
                where="loss_fn",
                remedy=f"it has {', '.join(known)}",
            )
        settings = loss.check(config or {})
        self.check_data(data, max_length)
        for number, datum in enumerate(data):
            loss.check_inputs(datum, where=f"data[{number}]")
        return settings

    def check_data(self, data: Sequence[Datum], max_length: int | None) -> None:
        """There are datums, none too long, none with what the service does not read."""
        if not data:
            raise DataError(what="no data", where="data", remedy="give one datum at least")
        for number, datum in enumerate(data):
            self.check_input(datum.model_input, max_length, where=f"data[{number}].model_input")

    def check_input(self, given: ModelInput, max_length: int | None, *, where: str) -> None:
        """Not empty, not too long, no image unless the manifest says that the service takes them."""
        if given.length == 0:
            raise ConfigError(what="an empty input", where=where, remedy="give one token at least")
        if not self.images and any(isinstance(chunk, ImageChunk) for chunk in given.chunks):
            raise ConfigError(
                what="an image",
                where=where,
                remedy="set images = true if the model on the service takes them",
            )
        if max_length is not None and given.length > max_length:
            raise DataError(
                what=f"{given.length} positions, but the model on the service reads {max_length}",
                where=where,
                remedy="truncate it (training.max_length)",
            )

    def check_likeliest(self, count: int) -> None:
        """A number of likeliest tokens that can be asked for.

        Raises:
            ConfigError: it cannot.
        """
        if count and not self.capabilities().topk_prompt_logprobs:
            raise ConfigError(
                what="the service has no topk_prompt_logprobs",
                where="topk_prompt_logprobs",
                remedy="leave it out",
            )
        if not 0 <= count <= MOST_LIKELIEST:
            raise ConfigError(
                what=f"topk_prompt_logprobs = {count}",
                where="topk_prompt_logprobs",
                remedy="give at least 0 and at most the size of the vocabulary",
            )
