"""A TrainingBackend in numpy that really learns, keeps a journal, and fails where a test asks for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crucible_ir import (
    CheckpointRef,
    ConfigError,
    ConflictError,
    NotFoundError,
    digest_bytes,
)
from crucible_testing.bigram import BigramTable, log_softmax, sample_from, top_logprobs
from crucible_testing.bigram_checkpoint import read_table, ref_at, write_table
from crucible_testing.byte_tokenizer import END, ByteTokenizer
from crucible_testing.journal import Journal
from crucible_train.losses import LOSSES, find_loss
from crucible_train.ports import BackendCapabilities, CustomLoss, CustomLossFn, Handle, TrainingSpec
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ImageChunk,
    LossConfig,
    ModelInput,
    OptimStepOutput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
    TopLogprobs,
)

__all__ = ["BigramBackend", "BigramSampler", "BigramTraining", "write_bigram_model"]

_MODEL = "bigram.json"


def write_bigram_model(folder: Path, seed: int = 0) -> Path:
    """A base model: the seed from which its table is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MODEL).write_text(json.dumps({"seed": seed}), encoding="utf-8")
    return folder


class BigramBackend:
    """Trains a table of bigrams over bytes; options make faults.

    Args:
        fail: call name (``forward_backward``, ``save_state`` …) → number of the call that fails, from 0.
        fail_when_submitted: let it fail at the call instead of in its handle.
        nan_at: number of the ``forward_backward`` call whose log-probabilities and gradients are NaN.
    """

    def __init__(
        self,
        *,
        fail: Mapping[str, int] | None = None,
        fail_when_submitted: bool = False,
        nan_at: int | None = None,
    ) -> None:
        self.clients: list[BigramTraining] = []
        self._nan_at = nan_at
        self._calls = Journal(fail=dict(fail or {}), when_submitted=fail_when_submitted)
        self._unseeded = itertools.count()

    @property
    def journal(self) -> list[str]:
        """``submit forward_backward 0``, ``await forward_backward 0`` and so on, in order."""
        return self._calls.lines

    def capabilities(self) -> BackendCapabilities:
        """Every loss with a formula, custom losses, sampling; exact."""
        return BackendCapabilities(
            name="bigram",
            losses=frozenset(LOSSES),
            custom_loss=True,
            full_finetuning=True,
            sampling=True,
            prompt_logprobs=True,
            topk_prompt_logprobs=True,
            deterministic=True,
            exact_resume=True,
            digests_content=True,
        )

    def check(self, spec: TrainingSpec) -> None:
        """The model's folder is there."""
        _model_file(spec.base_model)

    def model_digest(self, base_model: str) -> str:
        """Digest of ``bigram.json``."""
        return digest_bytes(_model_file(base_model).read_bytes())

    async def load_tokenizer(self, base_model: str) -> ByteTokenizer:
        """Bytes."""
        _model_file(base_model)
        return ByteTokenizer()

    async def create_training_client(self, spec: TrainingSpec) -> BigramTraining:
        """A table of its own."""
        table = BigramTable(_base_weights(spec.base_model))
        client = BigramTraining(table, spec, self._calls, self._nan_at, self._unseeded)
        self.clients.append(client)
        return client

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> BigramSampler:
        """A sampler over the base table or saved weights."""
        table = _base_weights(base_model) if weights is None else read_table(weights)["weights"]
        return BigramSampler(table, self._calls, self._unseeded)

    def list_checkpoints(self, checkpoint_dir: Path) -> list[CheckpointRef]:
        """By step, then name."""
        refs = [ref_at(path.parent) for path in checkpoint_dir.glob("[!.]*/manifest.json")]
        return sorted(refs, key=lambda ref: (ref.step or 0, ref.id))

    def export(self, weights: CheckpointRef, destination: Path, *, merge: bool) -> Path:
        """The table as ``weights.npy``.

        Raises:
            ConfigError: an adapter is asked for, and there is none.
        """
        if not merge:
            raise ConfigError(what="a bigram table has no adapter", where="export", remedy="give merge=True")
        destination.mkdir(parents=True, exist_ok=True)
        np.save(destination / "weights.npy", read_table(weights)["weights"])
        return destination

    async def close(self) -> None:
        """Close every client."""
        for client in self.clients:
            await client.close()


class BigramTraining:
    """The client; work is done when it is submitted, results are told when they are awaited."""

    def __init__(
        self,
        table: BigramTable,
        spec: TrainingSpec,
        calls: Journal,
        nan_at: int | None,
        unseeded: itertools.count[int],
    ) -> None:
        self.table = table
        self.spec = spec
        self.closed = False
        self._calls = calls
        self._nan_at = nan_at
        self._unseeded = unseeded

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Log-probabilities and loss."""
        self._open(data)
        settings = find_loss(loss_fn).check(loss_config or {})
        return self._calls.perform(
            "forward", lambda _: _evaluated(loss_fn, settings, data, self._logprobs(data))[0]
        )

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """The same with gradients."""
        self._open(data)
        settings = find_loss(loss_fn).check(loss_config or {})

        def work(number: int) -> ForwardBackwardOutput:
            logprobs = self._logprobs(data)
            if number == self._nan_at:
                logprobs = [np.full_like(array, np.nan) for array in logprobs]
                self.table.gradient += np.nan
            output, gradients = _evaluated(loss_fn, settings, data, logprobs)
            self._accumulate(data, gradients)
            return output

        return self._calls.perform("forward_backward", work)

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        """Gradients of the caller's loss."""
        self._open(data)

        def work(_: int) -> ForwardBackwardOutput:
            logprobs = self._logprobs(data)
            value: CustomLoss = loss(data, logprobs)
            self._accumulate(data, value.gradients)
            return _output(logprobs, {"loss:sum": value.loss, **value.metrics})

        return self._calls.perform("forward_backward_custom", work)

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """One AdamW step; refused with a TrainError from the handle where no gradients wait."""
        self._open()
        return self._calls.perform(
            "optim_step",
            lambda _: OptimStepOutput(metrics={"unclipped_grad_l2:mean": self.table.step(params)}),
        )

    def save_state(self, name: str) -> Handle[CheckpointRef]:
        """Weights and moments."""
        table = self.table
        arrays = {"weights": table.weights, "first": table.first, "second": table.second}
        return self._save("save_state", name, "state", arrays)

    def save_weights_for_sampler(self, name: str) -> Handle[CheckpointRef]:
        """Weights alone."""
        arrays = {"weights": self.table.weights}
        return self._save("save_weights_for_sampler", name, "sampler", arrays)

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        """Put a saved state in place."""
        self._open()

        def work(_: int) -> None:
            arrays = read_table(ref)
            table = BigramTable(arrays["weights"])
            if with_optimizer and "first" in arrays:
                table.first, table.second = arrays["first"], arrays["second"]
                table.steps = ref_at(Path(ref.path)).step or 0
            self.table = table

        return self._calls.perform("load_state", work)

    def sampling_client(self) -> Handle[BigramSampler]:
        """A sampler over a copy of the weights."""
        self._open()
        weights = self.table.weights.copy()
        return self._calls.perform(
            "sampling_client", lambda _: BigramSampler(weights, self._calls, self._unseeded)
        )

    async def close(self) -> None:
        """Take no more work."""
        self.closed = True

    def _save(
        self,
        call: str,
        name: str,
        content: Literal["state", "sampler"],
        arrays: Mapping[str, NDArray[np.float64]],
    ) -> Handle[CheckpointRef]:
        self._open()
        folder, steps = self.spec.checkpoint_dir / name, self.table.steps
        return self._calls.perform(call, lambda _: write_table(folder, content, arrays, steps))

    def _open(self, data: Sequence[Datum] = ()) -> None:
        if self.closed:
            raise ConflictError(what="the client is closed", where="BigramTraining", remedy="open another")
        if any(isinstance(chunk, ImageChunk) for datum in data for chunk in datum.model_input.chunks):
            raise ConfigError(what="an image", where="model_input", remedy="a bigram table reads bytes alone")

    def _logprobs(self, data: Sequence[Datum]) -> list[NDArray[np.float32]]:
        return [self.table.logprobs(datum.model_input.to_ints(), datum.target_tokens) for datum in data]

    def _accumulate(self, data: Sequence[Datum], gradients: Sequence[NDArray[np.floating]]) -> None:
        for datum, gradient in zip(data, gradients, strict=True):
            self.table.accumulate(datum.model_input.to_ints(), datum.target_tokens, gradient)


class BigramSampler:
    """Samples from fixed weights."""

    def __init__(self, weights: NDArray[np.float64], calls: Journal, unseeded: itertools.count[int]) -> None:
        self._weights = weights
        self._calls = calls
        self._unseeded = unseeded
        self.closed = False

    def sample(
        self,
        prompt: ModelInput,
        params: SamplingParams,
        *,
        num_samples: int = 1,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
    ) -> Handle[SampleResponse]:
        """Each sample has a generator of its own."""
        tokens = self._ready(prompt)
        if not 0 <= topk_prompt_logprobs <= self._weights.shape[1]:
            raise ConfigError(
                what=f"topk_prompt_logprobs = {topk_prompt_logprobs}",
                where="sample",
                remedy=f"give 0 to {self._weights.shape[1]}",
            )
        seed = (1, next(self._unseeded)) if params.seed is None else (0, params.seed)

        def one(index: int) -> SampledSequence:
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, index])))
            return sample_from(self._weights, tokens[-1], params, rng, stops=_stops(params))

        def work(_: int) -> SampleResponse:
            scored = self._scored(tokens) if include_prompt_logprobs else None
            likeliest = self._likeliest(tokens, topk_prompt_logprobs) if topk_prompt_logprobs else None
            sequences = tuple(one(index) for index in range(num_samples))
            return SampleResponse(sequences=sequences, prompt_logprobs=scored, topk_prompt_logprobs=likeliest)

        return self._calls.perform("sample", work)

    def compute_logprobs(self, prompt: ModelInput) -> Handle[tuple[float | None, ...]]:
        """Score a text."""
        tokens = self._ready(prompt)
        return self._calls.perform("compute_logprobs", lambda _: self._scored(tokens))

    async def close(self) -> None:
        """Take no more work."""
        self.closed = True

    def _ready(self, prompt: ModelInput) -> list[int]:
        if self.closed:
            raise ConflictError(what="the sampler is closed", where="BigramSampler", remedy="open another")
        if prompt.length == 0:
            raise ConfigError(what="an empty prompt", where="prompt", remedy="give one token at least")
        return prompt.to_ints()

    def _scored(self, tokens: Sequence[int]) -> tuple[float | None, ...]:
        table = log_softmax(self._weights[list(tokens[:-1])])
        return (None, *(float(row[token]) for row, token in zip(table, tokens[1:], strict=True)))

    def _likeliest(self, tokens: Sequence[int], count: int) -> tuple[TopLogprobs | None, ...]:
        table = log_softmax(self._weights[list(tokens[:-1])])
        return (None, *(top_logprobs(row, count) for row in table))


def _stops(params: SamplingParams) -> list[list[int]]:
    if params.stop is None:
        return [[END]]
    stops: list[str | int] = [params.stop] if isinstance(params.stop, str) else [*params.stop]
    return [list(stop.encode()) if isinstance(stop, str) else [stop] for stop in stops]


def _output(logprobs: Sequence[NDArray[np.float32]], metrics: Mapping[str, float]) -> ForwardBackwardOutput:
    outputs = tuple({"logprobs": TensorData(array)} for array in logprobs)
    return ForwardBackwardOutput(loss_fn_outputs=outputs, metrics=metrics)


def _evaluated(
    loss_fn: str, settings: LossConfig, data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]
) -> tuple[ForwardBackwardOutput, list[NDArray[np.float64]]]:
    loss = find_loss(loss_fn)
    values = [loss.evaluate(array, datum, settings) for array, datum in zip(logprobs, data, strict=True)]
    output = _output(logprobs, {"loss:sum": sum(value.loss for value in values)})
    return output, [value.gradient for value in values]


def _model_file(base_model: str) -> Path:
    path = Path(base_model) / _MODEL
    if not path.is_file():
        raise NotFoundError(
            what=f"no model {base_model!r}", where="model", remedy="write_bigram_model(folder)"
        )
    return path


def _base_weights(base_model: str) -> NDArray[np.float64]:
    seed = int(json.loads(_model_file(base_model).read_bytes())["seed"])
    size = ByteTokenizer().vocab_size
    return np.random.Generator(np.random.PCG64(seed)).normal(scale=0.1, size=(size, size))
