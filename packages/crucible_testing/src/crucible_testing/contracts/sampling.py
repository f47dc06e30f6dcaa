"""What every SamplingClient promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from crucible_ir import ConfigError, ConflictError
from crucible_train.ports import SamplingClient
from crucible_train.types import ModelInput, SamplingParams

__all__ = ["SamplingClientContract"]

PROMPT = ModelInput.from_ints([5, 9, 12, 7, 30])
FREE = SamplingParams(max_tokens=8, seed=3, stop=[])


class SamplingClientContract:
    """Inherit it and give ``sampler``; ``agreement`` bounds sampled against recomputed log-probabilities.

    ``topk_prompt_logprobs`` is what the backend's capabilities say.
    """

    agreement: float = 1e-4
    topk_prompt_logprobs: bool = True

    @pytest.fixture
    def sampler(self) -> Iterator[SamplingClient]:
        """The client under test, over a vocabulary of at least 60 tokens and 64 positions."""
        raise NotImplementedError

    def test_it_fits_the_port(self, sampler: SamplingClient) -> None:
        assert isinstance(sampler, SamplingClient)

    def test_as_many_samples_come_as_were_asked_for(self, sampler: SamplingClient) -> None:
        response = sampler.sample(PROMPT, FREE, num_samples=3).result()
        assert [len(s.tokens) for s in response.sequences] == [8, 8, 8]
        assert [s.stop_reason for s in response.sequences] == ["length"] * 3
        assert len({s.tokens for s in response.sequences}) > 1
        assert response.prompt_logprobs is None

    def test_the_same_seed_gives_the_same_samples(self, sampler: SamplingClient) -> None:
        first = sampler.sample(PROMPT, FREE, num_samples=2).result()
        assert sampler.sample(PROMPT, FREE, num_samples=2).result() == first
        other = SamplingParams(max_tokens=8, seed=4, stop=[])
        assert sampler.sample(PROMPT, other, num_samples=2).result() != first

    def test_requests_without_a_seed_differ(self, sampler: SamplingClient) -> None:
        free = SamplingParams(max_tokens=16, stop=[])
        first, second = (sampler.sample(PROMPT, free).result().sequences[0].tokens for _ in range(2))
        assert first != second

    def test_a_sample_does_not_depend_on_how_many_there_are(self, sampler: SamplingClient) -> None:
        many = sampler.sample(PROMPT, FREE, num_samples=6).result()
        few = sampler.sample(PROMPT, FREE, num_samples=2).result()
        assert many.sequences[:2] == few.sequences

    def test_temperature_zero_takes_the_most_probable_token(self, sampler: SamplingClient) -> None:
        greedy = SamplingParams(max_tokens=6, temperature=0.0, stop=[])
        once = sampler.sample(PROMPT, greedy).result().sequences[0]
        top_one = SamplingParams(max_tokens=6, top_k=1, seed=11, stop=[])
        assert sampler.sample(PROMPT, top_one).result().sequences[0] == once

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_log_probabilities_are_those_of_a_full_pass_at_temperature_1(
        self, sampler: SamplingClient, temperature: float
    ) -> None:
        params = SamplingParams(max_tokens=8, seed=1, temperature=temperature, top_p=0.9, stop=[])
        sequence = sampler.sample(PROMPT, params).result().sequences[0]
        whole = ModelInput.from_ints([*PROMPT.to_ints(), *sequence.tokens])
        scored = sampler.compute_logprobs(whole).result()
        again = np.array(scored[PROMPT.length :], dtype=np.float64)
        np.testing.assert_allclose(sequence.require_logprobs(), again, atol=self.agreement)

    def test_prompt_log_probabilities_begin_with_none(self, sampler: SamplingClient) -> None:
        scored = sampler.compute_logprobs(PROMPT).result()
        assert len(scored) == PROMPT.length
        assert scored[0] is None
        assert all(value is not None and value < 0 for value in scored[1:])
        response = sampler.sample(PROMPT, FREE, include_prompt_logprobs=True).result()
        assert response.prompt_logprobs == scored

    def test_the_likeliest_tokens_of_each_position_come_in_order_of_probability_then_id(
        self, sampler: SamplingClient
    ) -> None:
        if not self.topk_prompt_logprobs:
            with pytest.raises(ConfigError, match="topk_prompt_logprobs"):
                sampler.sample(PROMPT, FREE, topk_prompt_logprobs=1).result()
            return
        plain = sampler.sample(PROMPT, FREE).result()
        assert plain.topk_prompt_logprobs is None
        response = sampler.sample(PROMPT, FREE, topk_prompt_logprobs=50).result()
        assert response.sequences == plain.sequences
        assert response.prompt_logprobs is None
        found = response.topk_prompt_logprobs
        assert found is not None
        assert len(found) == PROMPT.length
        assert found[0] is None
        scored = sampler.compute_logprobs(PROMPT).result()
        for token, score, likeliest in zip(PROMPT.to_ints()[1:], scored[1:], found[1:], strict=True):
            assert likeliest is not None
            assert len({token for token, _ in likeliest}) == 50
            assert list(likeliest) == sorted(likeliest, key=lambda pair: (-pair[1], pair[0]))
            assert sum(np.exp(logprob) for _, logprob in likeliest) < 1 + self.agreement
            assert score is not None
            assert dict(likeliest).get(token, likeliest[-1][1]) >= score - self.agreement
            if token in dict(likeliest):
                assert dict(likeliest)[token] == pytest.approx(score, abs=self.agreement)

    def test_the_likeliest_token_after_a_prompt_is_the_one_that_greedy_sampling_takes(
        self, sampler: SamplingClient
    ) -> None:
        if not self.topk_prompt_logprobs:
            return
        greedy = sampler.sample(PROMPT, SamplingParams(max_tokens=3, temperature=0.0, stop=[])).result()
        tokens = greedy.sequences[0].tokens
        whole = ModelInput.from_ints([*PROMPT.to_ints(), *tokens])
        found = sampler.sample(whole, FREE, topk_prompt_logprobs=1).result().topk_prompt_logprobs
        assert found is not None
        assert [likeliest[0][0] for likeliest in found[PROMPT.length :] if likeliest] == list(tokens)

    @pytest.mark.parametrize("count", [-1, 10**9])
    def test_a_number_of_likeliest_tokens_that_cannot_be_is_refused(
        self, sampler: SamplingClient, count: int
    ) -> None:
        with pytest.raises(ConfigError, match="topk_prompt_logprobs"):
            sampler.sample(PROMPT, FREE, topk_prompt_logprobs=count)

    def test_a_stop_token_ends_a_sequence_and_is_its_last(self, sampler: SamplingClient) -> None:
        tokens = sampler.sample(PROMPT, FREE).result().sequences[0].tokens
        stopping = SamplingParams(max_tokens=8, seed=3, stop=[tokens[3]])
        stopped = sampler.sample(PROMPT, stopping).result().sequences[0]
        assert stopped.stop_reason == "stop"
        assert stopped.tokens == tokens[: tokens.index(tokens[3]) + 1]
        assert len(stopped.require_logprobs()) == len(stopped.tokens)

    def test_an_empty_prompt_is_refused(self, sampler: SamplingClient) -> None:
        with pytest.raises(ConfigError, match="prompt"):
            sampler.sample(ModelInput.empty(), FREE)

    def test_a_closed_sampler_takes_no_more_work(self, sampler: SamplingClient) -> None:
        asyncio.run(sampler.close())
        asyncio.run(sampler.close())
        with pytest.raises(ConflictError):
            sampler.sample(PROMPT, FREE)
