"""What every TrainingBackend and TrainingClient promises; capabilities say what an engine need not do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crucible_ir import ConfigError, ConflictError, CrucibleError, NotFoundError
from crucible_train.losses import cross_entropy
from crucible_train.ports import (
    CustomLoss,
    SamplingClient,
    Tokenizer,
    TrainingBackend,
    TrainingClient,
    TrainingSpec,
)
from crucible_train.types import (
    AdamParams,
    Datum,
    ImageChunk,
    LoraConfig,
    ModelInput,
    SamplingParams,
    TensorData,
)

__all__ = ["TrainingBackendContract", "TrainingClientContract", "make_datum"]

STEP = AdamParams(learning_rate=3e-3)
ALMOST = 2e-4


def make_datum(tokens: Sequence[int], *, prompt: int = 2) -> Datum:
    """A datum that reads ``tokens`` but the last and predicts each next one, weight 0 within the prompt."""
    weights = [0.0] * (prompt - 1) + [1.0] * (len(tokens) - prompt)
    return Datum(
        ModelInput.from_ints(tokens[:-1]),
        {
            "target_tokens": TensorData.of(list(tokens[1:])),
            "weights": TensorData.of(weights, dtype="float32"),
        },
    )


def _same(left: Sequence[NDArray[np.float32]], right: Sequence[NDArray[np.float32]], within: float) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, atol=within, rtol=within)


class _Engine:
    """Inherit a suite below and give ``backend`` and ``base_model``; ``vocabulary`` bounds the token ids."""

    vocabulary: int = 60

    @pytest.fixture
    def backend(self) -> TrainingBackend:
        """The engine under test."""
        raise NotImplementedError

    @pytest.fixture
    def base_model(self) -> str:
        """A small model that the engine can train."""
        raise NotImplementedError

    @pytest.fixture
    def spec(self, base_model: str, tmp_path: Path) -> TrainingSpec:
        """A small adapter over the base model."""
        lora = LoraConfig(rank=4, alpha=8.0)
        return TrainingSpec(base_model=base_model, lora=lora, seed=7, checkpoint_dir=tmp_path / "state")

    @pytest.fixture
    def data(self) -> list[Datum]:
        """Datums of several lengths."""
        rng = np.random.Generator(np.random.PCG64(5))
        return [make_datum(rng.integers(3, self.vocabulary, n).tolist()) for n in (9, 5, 14, 5)]


class TrainingBackendContract(_Engine):
    """Inherit it and give ``backend`` and ``base_model``."""

    def test_it_fits_the_port(self, backend: TrainingBackend) -> None:
        assert isinstance(backend, TrainingBackend)

    def test_capabilities_name_the_engine_and_its_losses(self, backend: TrainingBackend) -> None:
        found = backend.capabilities()
        assert found.name
        assert "cross_entropy" in found.losses
        assert found == backend.capabilities()

    def test_a_spec_that_can_be_served_passes(self, backend: TrainingBackend, spec: TrainingSpec) -> None:
        backend.check(spec)

    def test_a_model_that_is_not_there_is_named(self, backend: TrainingBackend, tmp_path: Path) -> None:
        absent = str(tmp_path / "absent-model")
        with pytest.raises(NotFoundError, match="absent-model"):
            backend.check(TrainingSpec(base_model=absent, lora=LoraConfig(), seed=0, checkpoint_dir=tmp_path))

    def test_the_model_digest_is_that_of_its_content(self, backend: TrainingBackend, base_model: str) -> None:
        digest = backend.model_digest(base_model)
        assert digest.startswith("sha256:")
        assert digest == backend.model_digest(base_model)

    def test_the_tokenizer_is_the_models_own(self, backend: TrainingBackend, base_model: str) -> None:
        tokenizer = asyncio.run(backend.load_tokenizer(base_model))
        assert isinstance(tokenizer, Tokenizer)
        assert tokenizer.vocab_size >= self.vocabulary

    def test_a_folder_without_checkpoints_lists_none(self, backend: TrainingBackend, tmp_path: Path) -> None:
        assert backend.list_checkpoints(tmp_path / "nothing") == []

    def test_checkpoints_are_listed_oldest_first(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        client = asyncio.run(backend.create_training_client(spec))
        saved = []
        for step in range(2):
            client.forward_backward(data).result()
            client.optim_step(STEP).result()
            saved.append(client.save_state(f"step-{step}").result())
        assert [ref.step for ref in saved] == [1, 2]
        assert backend.list_checkpoints(spec.checkpoint_dir) == saved

    def test_two_clients_of_one_base_do_not_move_each_other(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        one = asyncio.run(backend.create_training_client(spec))
        other = asyncio.run(backend.create_training_client(spec))
        before = other.forward(data).result().logprobs
        one.forward_backward(data).result()
        one.optim_step(STEP).result()
        moved = one.forward(data).result().logprobs
        after = other.forward(data).result().logprobs
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(before, moved, strict=True))

    def test_closing_twice_is_harmless(self, backend: TrainingBackend) -> None:
        asyncio.run(backend.close())
        asyncio.run(backend.close())


class TrainingClientContract(_Engine):
    """Inherit it and give ``backend`` and ``base_model``."""

    @pytest.fixture
    def client(self, backend: TrainingBackend, spec: TrainingSpec) -> Iterator[TrainingClient]:
        """A fresh client."""
        client = asyncio.run(backend.create_training_client(spec))
        yield client
        asyncio.run(client.close())

    def test_it_fits_the_client_port(self, client: TrainingClient) -> None:
        assert isinstance(client, TrainingClient)

    def test_outputs_come_in_the_order_of_the_data(self, client: TrainingClient, data: list[Datum]) -> None:
        together = client.forward(data).result()
        alone = [client.forward([datum]).result().logprobs[0] for datum in data]
        assert [lp.shape for lp in together.logprobs] == [(d.model_input.length,) for d in data]
        assert all(lp.dtype == np.float32 for lp in together.logprobs)
        _same(together.logprobs, alone, ALMOST)

    def test_the_loss_is_the_weighted_sum_over_tokens(
        self, client: TrainingClient, data: list[Datum]
    ) -> None:
        out = client.forward_backward(data).result()
        expected = sum(cross_entropy(lp, d.weights).loss for lp, d in zip(out.logprobs, data, strict=True))
        assert out.metrics["loss:sum"] == pytest.approx(expected, rel=1e-5)
        twice = client.forward_backward([*data, *data]).result()
        assert twice.metrics["loss:sum"] == pytest.approx(2 * expected, rel=1e-4)

    def test_the_loss_falls(self, client: TrainingClient, data: list[Datum]) -> None:
        losses = []
        for _ in range(8):
            losses.append(client.forward_backward(data).result().metrics["loss:sum"])
            client.optim_step(STEP).result()
        assert losses[-1] < losses[0]

    def test_work_may_be_submitted_before_it_is_awaited(
        self, client: TrainingClient, data: list[Datum]
    ) -> None:
        handles = []
        for _ in range(3):
            handles.append(client.forward_backward(data))
            client.optim_step(STEP)
        losses = [handle.result().metrics["loss:sum"] for handle in handles]
        assert losses[2] < losses[0]

    def test_gradients_accumulate_until_the_step(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        results = []
        for parts in ([data], [data[:2], data[2:]]):
            client = asyncio.run(backend.create_training_client(spec))
            for part in parts:
                client.forward_backward(part)
            norm = client.optim_step(STEP).result().metrics["unclipped_grad_l2:mean"]
            results.append((norm, client.forward(data).result().logprobs))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-3)
        _same(results[0][1], results[1][1], ALMOST)

    def test_forward_leaves_gradients_as_they_are(self, client: TrainingClient, data: list[Datum]) -> None:
        client.forward_backward(data).result()
        client.forward(data).result()
        norm = client.optim_step(AdamParams(learning_rate=0.0)).result().metrics["unclipped_grad_l2:mean"]
        client.forward_backward(data).result()
        again = client.optim_step(AdamParams(learning_rate=0.0)).result().metrics["unclipped_grad_l2:mean"]
        assert norm == pytest.approx(again, rel=1e-5)

    def test_a_learning_rate_of_zero_changes_nothing(self, client: TrainingClient, data: list[Datum]) -> None:
        before = client.forward(data).result().logprobs
        client.forward_backward(data).result()
        client.optim_step(AdamParams(learning_rate=0.0, weight_decay=0.5)).result()
        after = client.forward(data).result().logprobs
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_a_step_without_gradients_is_refused_and_changes_nothing(
        self, client: TrainingClient, data: list[Datum]
    ) -> None:
        before = client.forward(data).result().logprobs
        with pytest.raises(CrucibleError, match="gradient"):
            client.optim_step(STEP).result()
        client.forward_backward(data).result()
        client.optim_step(AdamParams(learning_rate=0.0)).result()
        with pytest.raises(CrucibleError, match="gradient"):  # a step uses them up
            client.optim_step(STEP).result()
        after = client.forward(data).result().logprobs
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_several_targets_a_position_are_weighted(self, client: TrainingClient, data: list[Datum]) -> None:
        plain = data[0]
        targets = np.stack([plain.target_tokens, plain.target_tokens[::-1]], axis=1)
        weights = np.stack([0.75 * plain.weights, 0.25 * plain.weights], axis=1)
        soft = Datum(
            plain.model_input,
            {"target_tokens": TensorData.of(targets), "weights": TensorData.of(weights, dtype="float32")},
        )
        out = client.forward_backward([soft, plain]).result()
        first, second = out.logprobs
        assert first.shape == (plain.model_input.length, 2)
        counted = plain.weights != 0
        np.testing.assert_allclose(first[counted, 0], second[counted], atol=ALMOST)
        expected = cross_entropy(first, weights).loss + cross_entropy(second, plain.weights).loss
        assert out.metrics["loss:sum"] == pytest.approx(expected, rel=1e-4)

    def test_an_unknown_loss_is_refused_at_once(self, client: TrainingClient, data: list[Datum]) -> None:
        with pytest.raises(ConfigError, match="cross_entropy"):
            client.forward_backward(data, "cross_entropi")

    def test_an_image_is_refused_where_images_are_not_promised(
        self, backend: TrainingBackend, client: TrainingClient
    ) -> None:
        if backend.capabilities().images:
            pytest.skip("the engine takes images")
        text = make_datum([3, 4, 5, 6])
        image = ModelInput((ImageChunk(data=b"x", format="png", expected_tokens=3),))
        with pytest.raises(ConfigError, match="image"):
            client.forward([Datum(image, text.loss_fn_inputs)])

    def test_a_custom_loss_equals_the_built_in_one(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        if not backend.capabilities().custom_loss:
            pytest.skip("the engine promises no custom loss")

        def custom(datums: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
            values = [cross_entropy(lp, d.weights) for d, lp in zip(datums, logprobs, strict=True)]
            return CustomLoss(
                loss=sum(value.loss for value in values),
                gradients=[value.gradient for value in values],
                metrics={"seen": float(len(datums))},
            )

        one = asyncio.run(backend.create_training_client(spec))
        other = asyncio.run(backend.create_training_client(spec))
        theirs = one.forward_backward(data).result()
        ours = other.forward_backward_custom(data, custom).result()
        assert ours.metrics["seen"] == 4
        assert ours.metrics["loss:sum"] == pytest.approx(theirs.metrics["loss:sum"], rel=1e-5)
        norms = [c.optim_step(STEP).result().metrics["unclipped_grad_l2:mean"] for c in (one, other)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        _same(one.forward(data).result().logprobs, other.forward(data).result().logprobs, ALMOST)

    def test_a_saved_state_continues_as_if_nothing_happened(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        client = asyncio.run(backend.create_training_client(spec))
        _train(client, data, 2)
        ref = client.save_state("half").result()
        assert (ref.step, ref.content) == (2, "state")
        straight = _train(client, data, 2)
        other = asyncio.run(backend.create_training_client(spec))
        other.load_state(ref).result()
        resumed = _train(other, data, 2)
        _same(straight, resumed, 0.0 if backend.capabilities().exact_resume else ALMOST)

    def test_a_state_that_is_not_there_is_not_found(self, client: TrainingClient, tmp_path: Path) -> None:
        client.forward([make_datum([3, 4, 5])]).result()
        ref = client.save_weights_for_sampler("weights").result()
        gone = ref.model_copy(update={"path": str(tmp_path / "gone"), "id": "gone"})
        with pytest.raises(NotFoundError, match="gone"):
            client.load_state(gone).result()

    def test_a_sampler_has_the_weights_of_the_moment_it_was_asked_for(
        self, backend: TrainingBackend, client: TrainingClient, data: list[Datum]
    ) -> None:
        if not backend.capabilities().prompt_logprobs:
            pytest.skip("the engine promises no prompt log-probabilities")
        client.forward_backward(data)
        client.optim_step(STEP)
        expected = client.forward(data[:1])
        handle = client.sampling_client()
        client.forward_backward(data)
        client.optim_step(STEP).result()
        sampler: SamplingClient = handle.result()
        scored = sampler.compute_logprobs(data[0].model_input).result()
        np.testing.assert_allclose(
            np.array(scored[1:], dtype=np.float32), expected.result().logprobs[0][:-1], atol=ALMOST
        )
        asyncio.run(sampler.close())

    def test_saved_weights_sample_as_the_trainer_does(
        self, backend: TrainingBackend, base_model: str, client: TrainingClient, data: list[Datum]
    ) -> None:
        if not backend.capabilities().sampling:
            pytest.skip("the engine promises no sampling")
        _train(client, data, 2)
        ref = client.save_weights_for_sampler("weights").result()
        assert ref.content == "sampler"
        params = SamplingParams(max_tokens=6, temperature=0.0, stop=[])
        live = client.sampling_client().result().sample(data[0].model_input, params).result()
        stored = asyncio.run(backend.create_sampling_client(base_model, ref))
        assert stored.sample(data[0].model_input, params).result().sequences == live.sequences

    def test_a_closed_client_takes_no_more_work(
        self, backend: TrainingBackend, spec: TrainingSpec, data: list[Datum]
    ) -> None:
        client = asyncio.run(backend.create_training_client(spec))
        pending = client.forward(data)
        asyncio.run(client.close())
        asyncio.run(client.close())
        assert pending.result().metrics["loss:sum"] > 0
        with pytest.raises(ConflictError):
            client.forward(data)


def _train(client: TrainingClient, data: list[Datum], steps: int) -> list[NDArray[np.float32]]:
    for _ in range(steps):
        client.forward_backward(data)
        client.optim_step(STEP)
    return client.forward(data).result().logprobs
