"""The fake backend keeps the promises of a real one, and breaks where it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crucible_ir import ConfigError, ConflictError, IntegrityError, ServiceError
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.bigram import BigramTable, log_softmax, top_logprobs
from crucible_testing.byte_tokenizer import END, ByteTokenizer
from crucible_testing.contracts.sampling import SamplingClientContract
from crucible_testing.contracts.tokenizer import TokenizerContract
from crucible_testing.contracts.training import TrainingBackendContract, TrainingClientContract, make_datum
from crucible_train.ports import SamplingClient, TrainingSpec
from crucible_train.types import AdamParams, ModelInput, SamplingParams


class Bigram:
    @pytest.fixture
    def backend(self) -> BigramBackend:
        return BigramBackend()

    @pytest.fixture
    def base_model(self, tmp_path: Path) -> str:
        return str(write_bigram_model(tmp_path / "model"))


class TestBackend(Bigram, TrainingBackendContract):
    pass


class TestClient(Bigram, TrainingClientContract):
    pass


class TestSampler(SamplingClientContract):
    @pytest.fixture
    def sampler(self, tmp_path: Path) -> Iterator[SamplingClient]:
        model = str(write_bigram_model(tmp_path / "model"))
        sampler = asyncio.run(BigramBackend().create_sampling_client(model))
        yield sampler
        asyncio.run(sampler.close())


class TestByteTokenizer(TokenizerContract):
    @pytest.fixture
    def tokenizer(self) -> ByteTokenizer:
        return ByteTokenizer()


def spec_at(folder: Path) -> TrainingSpec:
    model = str(write_bigram_model(folder / "model"))
    return TrainingSpec(base_model=model, lora=None, seed=0, checkpoint_dir=folder / "state")


DATUM = make_datum([3, 4, 5, 6])


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    weights = rng.normal(size=(5, 5))
    tokens, targets, slope = [0, 2, 0], np.array([1, 3, 1]), np.array([0.5, -2.0, 1.0])

    def loss(table: np.ndarray) -> float:
        return float(
            sum(s * log_softmax(table[x])[y] for x, y, s in zip(tokens, targets, slope, strict=True))
        )

    table = BigramTable(weights)
    table.accumulate(tokens, targets, slope)
    for place in ((0, 1), (0, 4), (2, 3), (2, 0), (1, 1)):
        nudge = np.zeros_like(weights)
        nudge[place] = 1e-6
        slope_there = (loss(weights + nudge) - loss(weights - nudge)) / 2e-6
        assert table.gradient[place] == pytest.approx(slope_there, abs=1e-8)


def test_the_first_step_moves_each_touched_weight_by_the_learning_rate() -> None:
    table = BigramTable(np.zeros((2, 2)))
    table.accumulate([0], np.array([1]), np.array([-1.0]))
    assert table.step(AdamParams(learning_rate=0.1)) == pytest.approx(np.sqrt(0.5))
    np.testing.assert_allclose(table.weights, [[-0.1, 0.1], [0.0, 0.0]], atol=1e-8)


def test_clipping_scales_the_gradient_to_the_norm() -> None:
    table = BigramTable(np.zeros((2, 2)))
    table.accumulate([0], np.array([1]), np.array([-1.0]))
    assert table.step(AdamParams(grad_clip_norm=0.1)) == pytest.approx(np.sqrt(0.5))
    assert np.linalg.norm(table.first) == pytest.approx(0.1 * 0.1)


def test_the_journal_tells_submissions_from_awaits(tmp_path: Path) -> None:
    backend = BigramBackend()
    client = asyncio.run(backend.create_training_client(spec_at(tmp_path)))
    first, second = client.forward_backward([DATUM]), client.forward_backward([DATUM])
    second.result()
    first.result()
    assert backend.journal == [
        "submit forward_backward 0",
        "submit forward_backward 1",
        "await forward_backward 1",
        "await forward_backward 0",
    ]


@pytest.mark.parametrize("when_submitted", [True, False])
def test_a_call_fails_once_where_it_was_to(tmp_path: Path, when_submitted: bool) -> None:
    backend = BigramBackend(fail={"forward_backward": 1}, fail_when_submitted=when_submitted)
    client = asyncio.run(backend.create_training_client(spec_at(tmp_path)))
    client.forward_backward([DATUM]).result()
    with pytest.raises(ServiceError, match="call 1 was to fail") as caught:
        client.forward_backward([DATUM]).result()
    assert caught.value.retryable
    client.forward_backward([DATUM]).result()


def test_a_loss_is_not_finite_where_it_was_to_and_spoils_the_next_step(tmp_path: Path) -> None:
    client = asyncio.run(BigramBackend(nan_at=0).create_training_client(spec_at(tmp_path)))
    assert np.isnan(client.forward_backward([DATUM]).result().metrics["loss:sum"])
    assert np.isfinite(client.forward_backward([DATUM]).result().metrics["loss:sum"])
    client.optim_step(AdamParams()).result()
    assert np.isnan(client.forward_backward([DATUM]).result().metrics["loss:sum"])


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    client = asyncio.run(BigramBackend().create_training_client(spec_at(tmp_path)))
    ref = client.save_state("one").result()
    (Path(ref.path) / "state.json").write_text(json.dumps({"steps": 7}))
    with pytest.raises(IntegrityError, match=r"state\.json"):
        client.load_state(ref).result()


def test_a_name_is_saved_under_once(tmp_path: Path) -> None:
    client = asyncio.run(BigramBackend().create_training_client(spec_at(tmp_path)))
    ref = client.save_state("one").result()
    assert client.save_state("one").result() == ref
    client.forward_backward([DATUM]).result()
    client.optim_step(AdamParams()).result()
    with pytest.raises(ConflictError, match="'one'"):
        client.save_state("one").result()


def test_a_stop_text_ends_a_sample(tmp_path: Path) -> None:
    weights = np.full((257, 257), -9.0)
    for present, following in zip(b"abc", b"bcd", strict=True):
        weights[present, following] = 9.0
    client = asyncio.run(BigramBackend().create_training_client(spec_at(tmp_path)))
    client.table.weights = weights
    sampler = client.sampling_client().result()
    params = SamplingParams(temperature=0, stop=["cd"], max_tokens=9)
    (sequence,) = sampler.sample(ModelInput.from_ints(b"a"), params).result().sequences
    assert bytes(sequence.tokens) == b"bcd"
    assert sequence.stop_reason == "stop"


def test_the_end_stops_a_sample_unless_told_otherwise(tmp_path: Path) -> None:
    client = asyncio.run(BigramBackend().create_training_client(spec_at(tmp_path)))
    client.table.weights[:, END] = 50.0
    sampler = client.sampling_client().result()
    (sequence,) = sampler.sample(ModelInput.from_ints(b"a"), SamplingParams(seed=0)).result().sequences
    assert sequence.tokens == (END,)


def test_the_table_is_exported_whole(tmp_path: Path) -> None:
    client = asyncio.run(BigramBackend().create_training_client(spec_at(tmp_path)))
    ref = client.save_weights_for_sampler("w").result()
    out = BigramBackend().export(ref, tmp_path / "out", merge=True)
    np.testing.assert_array_equal(np.load(out / "weights.npy"), client.table.weights)
    with pytest.raises(ConfigError, match="no adapter"):
        BigramBackend().export(ref, tmp_path / "other", merge=False)


def test_equally_likely_tokens_are_named_by_id() -> None:
    table = log_softmax(np.array([0.0, 1.0, 0.0, 1.0]))
    assert [token for token, _ in top_logprobs(table, 3)] == [1, 3, 0]
    assert dict(top_logprobs(table, 1))[1] == pytest.approx(-np.log(2 * (1 + np.exp(-1))))
