"""What prompts share is read once, and no answer can tell whether it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from crucible_ir import ConfigError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_torch.inference import Inference
from crucible_torch.prefixes import BLOCK, PrefixCache
from crucible_torch.products import Matrix, one_dnn_serves, steady_product
from crucible_torch.rows import rounded
from crucible_torch.settings import EngineSettings
from crucible_train.ports import SamplingClient, TrainingSpec
from crucible_train.types import AdamParams, LoraConfig, ModelInput, SampledSequence, SamplingParams

RNG = np.random.Generator(np.random.PCG64(6))
SYSTEM = RNG.integers(3, 300, 150).tolist()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows of every pass that reads prompts."""
    rows: list[int] = []
    hidden = Inference.hidden

    def noted(self: Inference, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(rest) == 3:
            rows.append(len(tokens))
        return hidden(self, tokens, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Inference, "hidden", noted)
        yield rows


def asked(sampler: SamplingClient, tokens: Sequence[int], **more: Any) -> SampledSequence:
    params = SamplingParams(max_tokens=6, seed=4, stop=[])
    return sampler.sample(ModelInput.from_ints(list(tokens)), params, **more).result().sequences[0]


@pytest.fixture
def cold(make_backend: Callable[..., LocalBackend], models: dict[str, Path]) -> SamplingClient:
    """A sampler that keeps nothing."""
    return asyncio.run(make_backend(prefix_cache_mb=0).create_sampling_client(str(models["qwen3"])))


@pytest.fixture
def warm(make_backend: Callable[..., LocalBackend], models: dict[str, Path]) -> SamplingClient:
    return asyncio.run(make_backend().create_sampling_client(str(models["qwen3"])))


def test_the_next_turn_of_a_conversation_reads_only_what_is_new_and_answers_bit_for_bit_the_same(
    cold: SamplingClient, warm: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = list(SYSTEM)
    with counted(monkeypatch) as rows:
        for turn in range(3):
            answer = asked(warm, history)
            assert answer == asked(cold, history)
            history += [*answer.tokens, *range(20 + turn, 110 + turn)]
    warm_rows, cold_rows = rows[::2], rows[1::2]
    assert cold_rows == [150, 246, 342]
    assert warm_rows == [150, 246 - 2 * BLOCK, 342 - 3 * BLOCK]


def test_requests_that_come_together_share_the_beginning_of_their_prompts(
    cold: SamplingClient, warm: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[*SYSTEM, 5 + n, 9, 12] for n in range(5)]
    alone = [asked(cold, prompt) for prompt in prompts]
    params = SamplingParams(max_tokens=6, seed=4, stop=[])
    sampler: Any = warm
    requests: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(type(sampler._worker), "share", lambda self, pool, request: requests.append(request))
        handles = [warm.sample(ModelInput.from_ints(prompt), params) for prompt in prompts]
    with counted(monkeypatch) as rows:
        sampler._pool.run(requests, lambda: ())
    assert [handle.result().sequences[0] for handle in handles] == alone
    assert rows == [153, 4 * (153 - 2 * BLOCK)]


def test_scores_of_a_prompt_are_the_same_whether_its_beginning_is_known_or_not(
    cold: SamplingClient, warm: SamplingClient
) -> None:
    prompt = ModelInput.from_ints(SYSTEM)
    before = warm.compute_logprobs(prompt).result()
    asked(warm, SYSTEM)
    assert warm.compute_logprobs(prompt).result() == before == cold.compute_logprobs(prompt).result()
    assert asked(warm, SYSTEM, include_prompt_logprobs=True) == asked(cold, SYSTEM)


def test_blocks_of_other_weights_are_never_used(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], tmp_path: Path
) -> None:
    answers = []
    for megabytes in (512, 0):
        backend = make_backend(prefix_cache_mb=megabytes)
        spec = TrainingSpec(
            base_model=str(models["qwen3"]), lora=LoraConfig(rank=4), seed=0, checkpoint_dir=tmp_path
        )
        client = asyncio.run(backend.create_training_client(spec))
        found = []
        for _ in range(3):
            sampler = client.sampling_client().result()
            found.append([asked(sampler, SYSTEM), asked(sampler, SYSTEM)])
            client.forward_backward([make_datum([5, 9, 12, 7])])
            client.optim_step(AdamParams(learning_rate=1e-2)).result()
        answers.append(found)
    assert answers[0] == answers[1]
    assert len({pair[0].logprobs for pair in answers[0]}) == 3


def test_the_cache_keeps_within_its_bound_and_drops_what_was_used_longest_ago() -> None:
    block = torch.zeros(1, 2, 1, BLOCK, 4)
    cache = PrefixCache(limit=3 * block.nbytes)
    first, second = (np.arange(start, start + 3 * BLOCK + 1) for start in (0, 1000))
    cache.put(0, first, [block.clone() for _ in range(3)], first=0)
    assert len(cache.find(0, first)) == 3
    assert len(cache.find(0, first[: 3 * BLOCK])) == 2  # its last token is to be read, for the state after it
    assert cache.find(1, first) == []
    cache.put(0, second, [block.clone()], first=0)
    assert len(cache) == 3
    assert [len(cache.find(0, tokens)) for tokens in (first, second)] == [2, 1]
    cache.put(0, first, [block.clone()], first=2)
    assert [len(cache.find(0, tokens)) for tokens in (first, second)] == [3, 0]


def test_a_negative_size_of_the_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefix_cache_mb = -1"):
        EngineSettings(prefix_cache_mb=-1)


# --- products ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("inner", "outer"), [(704, 256), (256, 1408), (512, 3), (96, 512)])
def test_a_row_of_a_product_does_not_depend_on_the_rows_beside_it(
    inner: int, outer: int, threads: int
) -> None:
    assert one_dnn_serves(torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(inner)
    weight, rows = (torch.randn(count, inner, generator=generator) for count in (outer, 300))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for product in (Matrix([weight]), lambda x: steady_product(x, weight)):
            whole = product(rows)
            torch.testing.assert_close(whole, linear(rows, weight), atol=1e-3, rtol=1e-4)
            for count in (4, 8, 12, 40, 144):
                assert torch.equal(product(rows[:count].clone()), whole[:count])
    finally:
        torch.set_num_threads(before)


def test_numbers_of_rows_are_few_and_little_more_than_what_is_asked() -> None:
    found = [rounded(rows) for rows in range(1, 4097)]
    assert all(rows <= more <= max(rows + 3, 1.125 * rows) for rows, more in enumerate(found, start=1))
    assert len(set(found)) < 100
