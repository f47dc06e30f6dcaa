"""Requests are sampled together, and none of them can tell."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_ir import ConfigError, TrainError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_torch.decode_attention import DecodePlan
from crucible_torch.inference import Inference
from crucible_torch.key_values import KeyValueStore, width_for
from crucible_torch.settings import EngineSettings
from crucible_train.ports import Handle, SamplingClient, TrainingSpec
from crucible_train.types import AdamParams, LoraConfig, ModelInput, SampleResponse, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call of ``sample``."""

    prompt: ModelInput
    params: SamplingParams
    num_samples: int = 1
    include_prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0

    def send(self, sampler: SamplingClient) -> Handle[SampleResponse]:
        return sampler.sample(
            self.prompt,
            self.params,
            num_samples=self.num_samples,
            include_prompt_logprobs=self.include_prompt_logprobs,
            topk_prompt_logprobs=self.topk_prompt_logprobs,
        )


def mixed(seed: int, count: int) -> list[Ask]:
    """Requests of many lengths and settings; some prompts come more than once."""
    rng = np.random.Generator(np.random.PCG64(seed))
    prompts = [rng.integers(3, 300, int(size)).tolist() for size in rng.integers(1, 90, count // 2)]
    asks = []
    for _ in range(count):
        prompt = prompts[rng.integers(len(prompts))]
        params = SamplingParams(
            max_tokens=int(rng.choice([1, 2, 7, 30, 70])),
            seed=int(rng.integers(1000)),
            temperature=float(rng.choice([0.0, 0.7, 1.0, 1.6])),
            top_k=int(rng.choice([-1, -1, 5])),
            top_p=float(rng.choice([1.0, 1.0, 0.8])),
            stop=[int(token) for token in rng.integers(3, 300, 12)],
        )
        asks.append(
            Ask(
                prompt=ModelInput.from_ints(prompt),
                params=params,
                num_samples=int(rng.choice([1, 1, 1, 2, 5])),
                include_prompt_logprobs=bool(rng.random() < 0.25),
                topk_prompt_logprobs=int(rng.choice([0, 0, 0, 4])),
            )
        )
    return asks


@contextmanager
def held(backend: LocalBackend) -> Iterator[None]:
    """Let nothing begin inside the block, so that what is submitted there waits together."""
    begin = threading.Event()
    backend._worker.submit(begin.wait)
    try:
        yield
    finally:
        begin.set()


@contextmanager
def watched(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] | None = None
) -> Iterator[list[tuple[int, bool]]]:
    """Rows of every pass of the model, and whether it reads prompts; ``before`` is told its number first."""
    passes: list[tuple[int, bool]] = []
    hidden = Inference.hidden

    def noted(self: Inference, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        passes.append((len(tokens), len(rest) == 3))
        if before is not None:
            before(len(passes))
        return hidden(self, tokens, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Inference, "hidden", noted)
        yield passes


def trained(backend: LocalBackend, model: Path, rank: int, folder: Path) -> SamplingClient:
    """A sampler over an adapter that does something."""
    spec = TrainingSpec(base_model=str(model), lora=LoraConfig(rank=rank), seed=3, checkpoint_dir=folder)
    client = asyncio.run(backend.create_training_client(spec))
    for _ in range(3):
        client.forward_backward([make_datum([5, 9, 12, 7, 30, 11])])
        client.optim_step(AdamParams(learning_rate=3e-2))
    return client.sampling_client().result()


# --- nobody can tell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rank", "threads"),
    [("qwen3", None, 1), ("qwen3", 1, 2), ("gpt2", 3, 1), ("gpt2", None, 2), ("mistral", 8, 2)],
)
def test_whatever_is_sampled_beside_a_request_its_answer_is_the_same_bit_for_bit(
    make_backend: Callable[..., LocalBackend],
    models: dict[str, Path],
    tmp_path: Path,
    name: str,
    rank: int | None,
    threads: int,
) -> None:
    backend = make_backend(num_threads=threads, max_sample_rows=11, micro_batch_tokens=150, head_rows=50)
    if rank is None:
        sampler = asyncio.run(backend.create_sampling_client(str(models[name])))
    else:
        sampler = trained(backend, models[name], rank, tmp_path)
    asks = mixed(seed=threads, count=24)
    alone = [ask.send(sampler).result() for ask in asks]
    rng = np.random.Generator(np.random.PCG64(5))
    for _ in range(2):
        found: dict[int, SampleResponse] = {}
        order = rng.permutation(len(asks)).tolist()

        def ask_some(mine: Sequence[int], into: dict[int, SampleResponse] = found) -> None:
            handles = [(index, asks[index].send(sampler)) for index in mine]
            into.update((index, handle.result()) for index, handle in handles)

        threads_of_callers = [threading.Thread(target=ask_some, args=(order[n::3],)) for n in range(3)]
        for thread in threads_of_callers:
            thread.start()
        for thread in threads_of_callers:
            thread.join()
        assert [found[index] for index in range(len(asks))] == alone


def test_requests_that_wait_for_room_give_the_same_answers_as_those_that_do_not(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path]
) -> None:
    asks = mixed(seed=8, count=16)
    answers = []
    for rows in (1, 6, 256):
        backend = make_backend(max_sample_rows=rows)
        sampler = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
        with held(backend):
            handles = [ask.send(sampler) for ask in asks]
        answers.append([handle.result() for handle in handles])
    assert answers[0] == answers[1] == answers[2]


def test_scores_are_the_same_bit_for_bit_whatever_is_scored_beside_them(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(micro_batch_tokens=200, head_rows=30)
    sampler = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
    rng = np.random.Generator(np.random.PCG64(4))
    prompts = [
        ModelInput.from_ints(rng.integers(3, 300, int(size)).tolist()) for size in rng.integers(1, 90, 40)
    ]
    alone = [sampler.compute_logprobs(prompt).result() for prompt in prompts]
    with watched(monkeypatch) as shapes:
        with held(backend):
            handles = [sampler.compute_logprobs(prompt) for prompt in prompts]
        assert [handle.result() for handle in handles] == alone
    tokens = sum(prompt.length for prompt in prompts)
    assert sum(rows for rows, _ in shapes) == tokens
    assert len(shapes) < 2 * tokens / 200


# --- together ----------------------------------------------------------------------------------------------


def free(max_tokens: int, seed: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=seed, stop=[])


def test_requests_that_wait_share_every_pass(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    sampler = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
    prompts = [ModelInput.from_ints([5, 9, 12, 7, 30 + n]) for n in range(12)]
    with watched(monkeypatch) as shapes:
        with held(backend):
            handles = [sampler.sample(prompt, free(10)) for prompt in prompts]
        for handle in handles:
            handle.result()
    assert shapes == [(12 * 5, True)] + [(12, False)] * 9


def test_the_prompt_of_a_group_is_read_once_in_one_request_or_in_many(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(max_sample_rows=4)
    sampler = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
    prompt = ModelInput.from_ints(list(range(5, 25)))
    with watched(monkeypatch) as shapes:
        with held(backend):
            handles = [sampler.sample(prompt, free(3 + n, seed=n)) for n in range(7)]
        for handle in handles:
            handle.result()
    assert [rows for rows, reads in shapes if reads] == [20]
    with watched(monkeypatch) as shapes:
        sampler.sample(prompt, free(3), num_samples=4).result()
    assert shapes == [(20, True), (4, False), (4, False)]


def test_a_sequence_begins_when_another_ends_and_rows_stay_bounded(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(max_sample_rows=4)
    sampler = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
    lengths = [3, 30, 9, 21, 6, 12, 15, 4]
    with watched(monkeypatch) as shapes:
        with held(backend):
            handles = [
                sampler.sample(ModelInput.from_ints([5, 9, 12, 7 + n]), free(length))
                for n, length in enumerate(lengths)
            ]
        assert [len(handle.result().sequences[0].tokens) for handle in handles] == lengths
    decodes = [rows for rows, reads in shapes if not reads]
    assert max(decodes) == 4
    # a lane per row takes whoever is next: 3+6+15, 9+12+4, 21, 30; every row's last token needs no pass
    assert len(decodes) == 29


def test_work_submitted_before_and_after_a_step_sees_the_weights_before_and_after(
    make_backend: Callable[..., LocalBackend], models: dict[str, Path], tmp_path: Path
) -> None:
    backend = make_backend()
    spec = TrainingSpec(
        base_model=str(models["qwen3"]), lora=LoraConfig(rank=4), seed=0, checkpoint_dir=tmp_path
    )
    client = asyncio.run(backend.create_training_client(spec))
    prompt = ModelInput.from_ints([5, 9, 12])

    async def iterations() -> list[SampleResponse]:
        found = []
        for _ in range(3):
            sampler = await client.sampling_client()
            handles = [sampler.sample(prompt, free(8, seed=n)) for n in range(5)]
            client.forward_backward([make_datum([5, 9, 12, 7])])
            client.optim_step(AdamParams(learning_rate=1e-2))
            found.append([await handle for handle in handles])
            later = await client.sampling_client()
            assert [await later.sample(prompt, free(8, seed=n)) for n in range(5)] != found[-1]
            again = [await sampler.sample(prompt, free(8, seed=n)) for n in range(5)]
            assert again == found[-1]
        return found

    first, second, third = asyncio.run(iterations())
    assert first != second
    assert second != third


def test_requests_of_two_samplers_in_turns_are_sampled_in_two_runs(
    make_backend: Callable[..., LocalBackend],
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = make_backend()
    base = asyncio.run(backend.create_sampling_client(str(models["qwen3"])))
    tuned = trained(backend, models["qwen3"], 4, tmp_path)
    prompt = ModelInput.from_ints([5, 9, 12, 7])
    alone = [sampler.sample(prompt, free(6)).result() for sampler in (base, tuned)]
    with watched(monkeypatch) as shapes:
        with held(backend):
            handles = [sampler.sample(prompt, free(6)) for _ in range(5) for sampler in (base, tuned)]
        assert [handle.result() for handle in handles] == alone * 5
    assert shapes == ([(4, True)] + [(5, False)] * 5) * 2


def test_a_job_is_not_passed_by_requests_that_came_after_it(backend: LocalBackend, qwen3: Path) -> None:
    sampler = asyncio.run(backend.create_sampling_client(str(qwen3)))
    order: list[str] = []
    prompt = ModelInput.from_ints([5, 9, 12, 7])

    def noted(name: str, handle: Handle[Any]) -> Handle[Any]:
        handle._future.add_done_callback(lambda _: order.append(name))
        return handle

    with held(backend):
        noted("before", sampler.sample(prompt, free(9)))
        noted("job", backend._worker.submit(lambda: None))
        last = noted("after", sampler.sample(prompt, free(2)))
    last.result()
    backend._worker.submit(lambda: None).result()
    assert order == ["before", "job", "after"]


# --- faults ------------------------------------------------------------------------------------------------


def test_a_request_whose_text_cannot_be_decoded_fails_alone(
    backend: LocalBackend, qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = asyncio.run(backend.load_tokenizer(str(qwen3)))
    sampler = asyncio.run(backend.create_sampling_client(str(qwen3)))
    prompt = ModelInput.from_ints([5, 9, 12, 7])
    alone = sampler.sample(prompt, free(9)).result()

    def broken(tokens: Sequence[int]) -> str:
        raise ValueError("no such text")

    monkeypatch.setattr(type(tokenizer), "decode", lambda self, tokens: broken(tokens))
    with held(backend):
        good = sampler.sample(prompt, free(9))
        bad = sampler.sample(prompt, SamplingParams(max_tokens=9, stop=["x"]), num_samples=3)
    with pytest.raises(ValueError, match="no such text"):
        bad.result()
    assert good.result() == alone


def test_running_out_of_memory_fails_what_runs_and_not_what_waits(
    make_backend: Callable[..., LocalBackend], qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(max_sample_rows=2)
    sampler: Any = asyncio.run(backend.create_sampling_client(str(qwen3)))
    prompts = [ModelInput.from_ints([5, 9, 12, 7 + n]) for n in range(5)]
    alone = [sampler.sample(prompt, free(6)).result() for prompt in prompts]

    def no_memory(number: int) -> None:
        if number == 3:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    with watched(monkeypatch, no_memory):
        with held(backend):
            handles = [sampler.sample(prompt, free(6)) for prompt in prompts]
        for handle in handles[:2]:
            with pytest.raises(TrainError, match=r"out of memory .*max_sample_rows"):
                handle.result()
        assert [handle.result() for handle in handles[2:]] == alone[2:]


def test_fewer_than_one_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_sample_rows = 0"):
        EngineSettings(max_sample_rows=0)


# --- stores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "width"),
    [(1, 64), (64, 64), (65, 128), (129, 192), (256, 256), (257, 384), (1024, 1024), (1025, 1536)],
)
def test_a_row_is_at_most_64_or_half_wider_than_its_length(length: int, width: int) -> None:
    assert width_for(length) == width


def test_seats_keep_their_content_while_others_come_go_and_grow() -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    store = KeyValueStore()
    kept: list[tuple[Any, torch.Tensor]] = []
    for turn in range(60):
        if kept and rng.random() < 0.4:
            seat, _ = kept.pop(int(rng.integers(len(kept))))
            store.leave(seat)
        elif kept and rng.random() < 0.4:
            index = int(rng.integers(len(kept)))
            seat, content = kept[index]
            kept[index] = store.widened(seat, int(rng.integers(1, 400))), content
        else:
            size = int(rng.integers(1, 150))
            seat = store.seat(size)
            content = torch.full((2, size, 4), float(turn + 1))
            seat.width.write(0, [seat.row], (content, -content))
            kept.append((seat, content))
        for seat, content in kept:
            keys, values = (stored[seat.row, :, : content.shape[1]] for stored in seat.width._layers[0])
            assert torch.equal(keys, content)
            assert torch.equal(values, -content)
    assert sum(len(width.seats) for width in store.widths) == len(kept)
    for seat, _ in kept:
        store.leave(seat)
    assert store.widths == []


@pytest.mark.parametrize("window", [None, 7, 600])
def test_a_new_token_attends_to_everything_before_it_in_its_own_row(window: int | None) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = [3, 64, 65, 700, 900]
    store = KeyValueStore()
    seats = [store.seat(length + 1) for length in lengths]
    past = [torch.randn(2, 2, length, 8, generator=generator) for length in lengths]
    for seat, pair in zip(seats, past, strict=True):
        seat.width.write(0, [seat.row], pair)
    order = [seats.index(seat) for width in store.widths for seat in width.seats]
    query = torch.randn(8, 6, 8, generator=generator)
    new = torch.randn(2, 8, 2, 8, generator=generator)
    plan = DecodePlan(store.widths, torch.tensor([lengths[index] for index in order]))
    found = plan.attend(0, (query, new[0], new[1]), (8**-0.5, window))
    assert found.shape == (8, 48)
    assert not found[5:].any()
    for row, index in enumerate(order):
        keys, values = torch.cat([past[index], new[:, row, :, None]], dim=2)[:, :, -(window or 1000) :]
        wanted = scaled_dot_product_attention(
            query[row, :, None], keys.repeat_interleave(3, 0), values.repeat_interleave(3, 0)
        )
        torch.testing.assert_close(found[row].view(6, 8), wanted[:, 0], atol=1e-6, rtol=1e-5)
