"""What every Completer promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from crucible_ir import ConfigError, ConflictError
from crucible_train.ports import Completer
from crucible_train.renderers import Message, ParseTermination
from crucible_train.types import SamplingParams

__all__ = ["CompleterContract"]

TALK = (Message(role="user", content="Say a word."),)
FREE = SamplingParams(max_tokens=8, seed=3)


class CompleterContract:
    """Inherit it and give ``completer``; ``tells_tokens`` says that the source gives ids and log-probabilities."""

    tells_tokens: bool = True

    @pytest.fixture
    def completer(self) -> Iterator[Completer]:
        """The completer under test, which reads at least 40 tokens and writes 8 more."""
        raise NotImplementedError

    def test_it_fits_the_port(self, completer: Completer) -> None:
        assert isinstance(completer, Completer)

    def test_as_many_answers_come_as_were_asked_for(self, completer: Completer) -> None:
        response = completer.complete(TALK, FREE, num_samples=3).result()
        assert [completion.message.role for completion in response.completions] == ["assistant"] * 3
        assert len({completion.text for completion in response.completions}) > 1
        assert all(1 <= completion.token_count <= 8 for completion in response.completions)
        assert response.completion_tokens == sum(c.token_count for c in response.completions)

    def test_the_prompt_is_counted_once_and_grows_with_the_conversation(self, completer: Completer) -> None:
        longer = (*TALK, Message(role="assistant", content="Yes."), Message(role="user", content="On."))
        short = completer.complete(TALK, FREE, num_samples=2).result().prompt_tokens
        assert 0 < short < completer.complete(longer, FREE).result().prompt_tokens

    def test_tokens_and_their_log_probabilities_come_where_the_source_has_them(
        self, completer: Completer
    ) -> None:
        (completion,) = completer.complete(TALK, FREE).result().completions
        if not self.tells_tokens:
            assert (completion.tokens, completion.logprobs) == (None, None)
            return
        assert completion.tokens is not None
        assert completion.logprobs is not None
        assert len(completion.tokens) == len(completion.logprobs) == completion.token_count
        assert all(logprob <= 0 for logprob in completion.logprobs)

    def test_the_same_seed_gives_the_same_answers(self, completer: Completer) -> None:
        first = completer.complete(TALK, FREE, num_samples=2).result()
        assert completer.complete(TALK, FREE, num_samples=2).result() == first
        assert completer.complete(TALK, replace(FREE, seed=4), num_samples=2).result() != first

    def test_greedy_answers_need_no_seed(self, completer: Completer) -> None:
        greedy = SamplingParams(max_tokens=4, temperature=0.0)
        first = completer.complete(TALK, greedy).result()
        assert completer.complete(TALK, greedy).result() == first

    def test_an_answer_that_is_cut_off_says_so(self, completer: Completer) -> None:
        response = completer.complete(TALK, replace(FREE, max_tokens=1), num_samples=4).result()
        cut = [completion for completion in response.completions if completion.stop_reason == "length"]
        assert cut
        assert all(completion.token_count == 1 for completion in response.completions)
        assert all(completion.termination is ParseTermination.MALFORMED for completion in cut)

    def test_a_further_stop_ends_an_answer_and_is_no_part_of_it(self, completer: Completer) -> None:
        whole = completer.complete(TALK, FREE).result().completions[0]
        stop = next(letter for letter in whole.text[1:] if letter.isascii() and letter.isprintable())
        before = whole.text.partition(stop)[0]
        for given in (stop, [stop, "\N{SNOWMAN}"]):
            found = completer.complete(TALK, replace(FREE, stop=given)).result().completions[0]
            assert (found.stop_reason, found.termination) == ("stop", ParseTermination.STOP_SEQUENCE)
            assert found.text == before
            assert found.token_count <= whole.token_count

    def test_answers_may_be_asked_for_at_the_same_time(self, completer: Completer) -> None:
        async def together() -> list[object]:
            handles = [completer.complete(TALK, replace(FREE, seed=seed)) for seed in range(4)]
            return [await handle for handle in handles]

        apart = [completer.complete(TALK, replace(FREE, seed=seed)).result() for seed in range(4)]
        assert asyncio.run(together()) == apart

    def test_what_cannot_be_answered_is_refused(self, completer: Completer) -> None:
        with pytest.raises(ConfigError, match="message"):
            completer.complete([], FREE).result()
        with pytest.raises(ConfigError, match="num_samples"):
            completer.complete(TALK, FREE, num_samples=0).result()
        with pytest.raises(ConfigError, match="stop"):
            completer.complete(TALK, replace(FREE, stop="")).result()

    def test_a_closed_completer_takes_no_more_work(self, completer: Completer) -> None:
        asyncio.run(completer.close())
        asyncio.run(completer.close())
        with pytest.raises(ConflictError):
            completer.complete(TALK, FREE).result()
