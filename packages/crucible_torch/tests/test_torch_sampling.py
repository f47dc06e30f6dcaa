"""Sampling equals a full forward pass, follows its settings, and depends on nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_ir import ConfigError, DataError
from crucible_torch import LocalBackend
from crucible_torch.choice import choose_tokens
from crucible_torch.likeliest import top_logprobs
from crucible_torch.stopping import stop_rule
from crucible_train.ports import SamplingClient, TrainingSpec
from crucible_train.types import ImageChunk, ModelInput, SamplingParams

PROMPT = ModelInput.from_ints([5, 9, 12, 7])


@pytest.fixture
def sampler(backend: LocalBackend, qwen3: Path) -> SamplingClient:
    return asyncio.run(backend.create_sampling_client(str(qwen3)))


# --- choice of a token -------------------------------------------------------------------------------------


def chosen(scores: list[float], draw: float, **params: Any) -> int:
    rows = torch.tensor([scores])
    aim = torch.tensor([draw], dtype=torch.float64)
    return int(choose_tokens(rows, aim, [SamplingParams(**params)])[0])


def test_a_draw_falls_into_the_running_sum_of_probabilities() -> None:
    scores = np.log([0.5, 0.3, 0.2]).tolist()
    assert [chosen(scores, draw) for draw in (0.0, 0.49, 0.51, 0.79, 0.81, 0.999999)] == [0, 0, 1, 1, 2, 2]


def test_temperature_sharpens_and_flattens() -> None:
    scores = np.log([0.8, 0.2]).tolist()  # at 0.5: 0.64/0.68 = 0.941; at 2: 0.894/1.342 = 0.667
    assert [chosen(scores, 0.93, temperature=0.5), chosen(scores, 0.95, temperature=0.5)] == [0, 1]
    assert [chosen(scores, 0.66, temperature=2.0), chosen(scores, 0.68, temperature=2.0)] == [0, 1]
    assert chosen(scores, 0.99, temperature=0.0) == 0


def test_top_k_keeps_the_k_greatest() -> None:
    scores = np.log([0.1, 0.4, 0.2, 0.3]).tolist()
    assert {chosen(scores, draw, top_k=2) for draw in np.linspace(0, 0.9999, 50)} == {1, 3}
    assert chosen(scores, 4 / 7 - 0.01, top_k=2) == 1
    assert chosen(scores, 4 / 7 + 0.01, top_k=2) == 3


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    scores = np.log([0.1, 0.4, 0.2, 0.3]).tolist()
    draws = np.linspace(0, 0.9999, 100)
    assert {chosen(scores, draw, top_p=0.39) for draw in draws} == {1}
    assert {chosen(scores, draw, top_p=0.41) for draw in draws} == {1, 3}
    assert {chosen(scores, draw, top_p=0.95) for draw in draws} == {0, 1, 2, 3}
    assert {chosen(scores, draw, top_p=0.6, top_k=3) for draw in draws} == {1, 3}


def test_frequencies_are_the_probabilities() -> None:
    probabilities = np.array([0.05, 0.25, 0.1, 0.6])
    rng = np.random.Generator(np.random.PCG64(1))
    rows = torch.tensor(np.log(probabilities), dtype=torch.float32).expand(20_000, -1)
    tokens, logprobs = choose_tokens(rows, torch.from_numpy(rng.random(20_000)), [SamplingParams()] * 20_000)
    np.testing.assert_allclose(logprobs.numpy(), np.log(probabilities)[tokens.numpy()], atol=1e-6)
    counts = np.bincount(tokens.numpy(), minlength=4) / 20_000
    np.testing.assert_allclose(counts, probabilities, atol=0.012)  # > 3 standard errors of the widest


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=12),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([-1, 1, 3]),
    st.floats(0.05, 1.0),
    st.floats(0.1, 3.0),
)
def test_a_choice_is_among_the_allowed_and_alone_in_its_row(
    scores: list[float], draw: float, top_k: int, top_p: float, temperature: float
) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, temperature=temperature)
    row = torch.tensor([scores])
    token = int(choose_tokens(row, torch.tensor([draw], dtype=torch.float64), [params])[0])
    if top_k != -1:
        assert sum(score > row[0, token] for score in row[0]) < top_k
    noise = torch.flip(row, dims=[1])
    pair = torch.cat([noise, row])
    for beside in (params, SamplingParams(), SamplingParams(temperature=0.0)):
        draws = torch.tensor([0.3, draw], dtype=torch.float64)
        assert int(choose_tokens(pair, draws, [beside, params])[0][1]) == token


# --- stopping ----------------------------------------------------------------------------------------------


def test_a_stop_string_ends_where_it_appears(
    backend: LocalBackend, qwen3: Path, sampler: SamplingClient
) -> None:
    tokenizer = asyncio.run(backend.load_tokenizer(str(qwen3)))
    free = SamplingParams(max_tokens=40, seed=2, stop=[])
    tokens = sampler.sample(PROMPT, free).result().sequences[0].tokens
    text = tokenizer.decode(tokens[10:13])
    stopped = sampler.sample(PROMPT, SamplingParams(max_tokens=40, seed=2, stop=text)).result().sequences[0]
    assert stopped.stop_reason == "stop"
    assert tokens[: len(stopped.tokens)] == stopped.tokens
    assert text in tokenizer.decode(stopped.tokens)
    assert text not in tokenizer.decode(stopped.tokens[:-1])


def test_the_end_token_stops_unless_stop_is_empty() -> None:
    def no_decoder() -> Callable[..., str]:
        raise AssertionError("nothing to decode")

    ends = frozenset({2})
    assert stop_rule(None, eos_ids=ends, decoder=no_decoder).ends([5, 2])
    assert stop_rule([7], eos_ids=ends, decoder=no_decoder).ends([5, 2])
    assert stop_rule([7], eos_ids=ends, decoder=no_decoder).ends([5, 7])
    assert not stop_rule([], eos_ids=ends, decoder=no_decoder).ends([5, 2])
    spelled = stop_rule(["ab"], eos_ids=ends, decoder=lambda: lambda ids: "".join(map(chr, ids)))
    assert spelled.ends([97, 98])
    assert spelled.ends([97, 2])
    assert not spelled.ends([97, 99])


@pytest.mark.parametrize("stop", [[""], ["a", 3]])
def test_a_stop_condition_that_means_nothing_is_refused(stop: Any) -> None:
    with pytest.raises(ConfigError, match="stop"):
        stop_rule(stop, eos_ids=frozenset(), decoder=lambda: lambda ids: "")


# --- requests ----------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_bit_for_bit_whoever_else_is_in_the_batch(sampler: SamplingClient) -> None:
    params = SamplingParams(max_tokens=30, seed=17, temperature=1.3, stop=[])
    crowd = sampler.sample(PROMPT, params, num_samples=13).result().sequences
    for count in (1, 2, 5):
        assert sampler.sample(PROMPT, params, num_samples=count).result().sequences == crowd[:count]


def test_greedy_sampling_equals_plain_generation(qwen3: Path, sampler: SamplingClient) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(qwen3)
    ids = torch.tensor([PROMPT.to_ints()])
    with torch.no_grad():
        for _ in range(40):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    greedy = SamplingParams(max_tokens=40, temperature=0.0, stop=[])
    assert list(sampler.sample(PROMPT, greedy).result().sequences[0].tokens) == ids[0, 4:].tolist()


def test_more_tokens_than_positions_are_refused_with_the_numbers(sampler: SamplingClient) -> None:
    with pytest.raises(ConfigError, match=r"4 tokens and max_tokens = 61 make 65.*64"):
        sampler.sample(PROMPT, SamplingParams(max_tokens=61))
    assert sampler.sample(PROMPT, SamplingParams(max_tokens=60, stop=[])).result().sequences[0].tokens
    with pytest.raises(ConfigError, match="65 tokens"):
        sampler.compute_logprobs(ModelInput.from_ints([5] * 65))


@pytest.mark.parametrize("token", [-1, 320])
def test_a_token_outside_the_vocabulary_is_refused(sampler: SamplingClient, token: int) -> None:
    with pytest.raises(DataError, match=f"id {token} outside the vocabulary of 320"):
        sampler.compute_logprobs(ModelInput.from_ints([5, token]))


def test_an_image_and_no_samples_are_refused(sampler: SamplingClient) -> None:
    image = PROMPT.append(ImageChunk(data=b"x", format="png", expected_tokens=2))
    with pytest.raises(ConfigError, match="image"):
        sampler.sample(image, SamplingParams())
    with pytest.raises(ConfigError, match="num_samples"):
        sampler.sample(PROMPT, SamplingParams(), num_samples=0)


def test_the_first_token_alone_has_no_log_probability(sampler: SamplingClient) -> None:
    assert sampler.compute_logprobs(ModelInput.from_ints([5])).result() == (None,)


def test_a_snapshot_of_full_finetuning_keeps_its_weights(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    from crucible_testing.contracts.training import make_datum
    from crucible_train.types import AdamParams

    spec = TrainingSpec(base_model=str(qwen3), lora=None, seed=0, checkpoint_dir=tmp_path)
    client = asyncio.run(backend.create_training_client(spec))
    sampler = client.sampling_client().result()
    before = sampler.compute_logprobs(PROMPT).result()
    client.forward_backward([make_datum([5, 9, 12, 7])])
    client.optim_step(AdamParams(learning_rate=1e-2)).result()
    assert sampler.compute_logprobs(PROMPT).result() == before
    assert client.sampling_client().result().compute_logprobs(PROMPT).result() != before


@pytest.mark.real
def test_a_real_model_tells_its_published_story(backend: LocalBackend, shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    golden = json.loads((folder / "golden.json").read_text())
    wanted = golden["greedy_ids"][1:]
    sampler = asyncio.run(backend.create_sampling_client(str(folder)))
    greedy = SamplingParams(max_tokens=len(wanted), temperature=0.0)
    found = sampler.sample(ModelInput.from_ints(golden["greedy_prompt_ids"]), greedy).result().sequences[0]
    assert list(found.tokens) == wanted
    tokenizer = asyncio.run(backend.load_tokenizer(str(folder)))
    assert tokenizer.decode(found.tokens).strip() == golden["published_greedy_text"].strip()
    scored = sampler.compute_logprobs(ModelInput.from_ints([1, *found.tokens])).result()
    np.testing.assert_allclose(found.require_logprobs(), np.array(scored[1:], dtype=float), atol=1e-4)


# --- likeliest tokens --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda width: st.tuples(
            st.lists(st.lists(st.integers(-3, 3), min_size=width, max_size=width), min_size=1, max_size=4),
            st.integers(1, width),
        )
    )
)
def test_the_likeliest_tokens_are_those_of_a_full_sort_by_probability_then_id(
    drawn: tuple[list[list[int]], int],
) -> None:
    scores, count = drawn
    found = top_logprobs(torch.tensor(scores, dtype=torch.float32), count)
    for row, likeliest in zip(scores, found, strict=True):
        total = np.log(np.exp(np.array(row, dtype=np.float64)).sum())
        order = sorted(range(len(row)), key=lambda token: (-row[token], token))[:count]
        assert [token for token, _ in likeliest] == order
        np.testing.assert_allclose([lp for _, lp in likeliest], [row[t] - total for t in order], atol=1e-5)
