"""A completer over any sampler renders the conversation, reads the answer, and stops where it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import crucible_tiny
from crucible_ir import ConfigError, ServiceError
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_testing.contracts.completer import FREE, TALK, CompleterContract
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.ports import Completer, Handle
from crucible_train.rendered_completer import RenderedCompleter
from crucible_train.renderers import Message, ParseTermination, RenderError, ToolSpec, get_renderer
from crucible_train.types import ModelInput, SampledSequence, SampleResponse, SamplingParams


class TestRenderedCompleter(CompleterContract):
    @pytest.fixture
    def completer(self, tmp_path: Path) -> Iterator[Completer]:
        model = str(write_bigram_model(tmp_path / "model"))
        sampler = asyncio.run(BigramBackend().create_sampling_client(model))
        completer = RenderedCompleter(sampler, get_renderer("role_colon", ByteTokenizer()))
        yield completer
        asyncio.run(completer.close())


@dataclass
class Scripted:
    """A sampler that answers with given tokens, and keeps what it was asked."""

    answers: Sequence[SampledSequence] = ()
    error: Exception | None = None
    asked: list[tuple[ModelInput, SamplingParams]] = field(default_factory=list)

    def sample(self, prompt: ModelInput, params: SamplingParams, **_: Any) -> Handle[SampleResponse]:
        self.asked.append((prompt, params))
        future: Future[SampleResponse] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(SampleResponse(sequences=tuple(self.answers)))
        return Handle(future)


def completer_of(sampler: Scripted, renderer: str) -> RenderedCompleter:
    return RenderedCompleter(sampler, get_renderer(renderer, TINY))  # type: ignore[arg-type]


def sequence(text: str, stop_reason: Any = "stop") -> SampledSequence:
    return SampledSequence(tokens=tuple(TINY.encode(text, allow_special=True)), stop_reason=stop_reason)


TINY = FileTokenizer(crucible_tiny.model_path())
IM_END = TINY.encode("<|im_end|>", allow_special=True)[0]


def test_without_further_stops_the_sampler_stops_where_the_format_does() -> None:
    sampler = Scripted([sequence("Hello.<|im_end|>")])
    response = completer_of(sampler, "qwen3_instruct").complete(TALK, FREE).result()
    (prompt, params), (answer,) = *sampler.asked, response.completions
    assert params == SamplingParams(max_tokens=8, seed=3, stop=(IM_END,))
    assert (answer.text, answer.termination) == ("Hello.", ParseTermination.STOP_SEQUENCE)
    assert (response.prompt_tokens, answer.logprobs) == (prompt.length, None)


def test_a_stop_string_beside_a_format_of_token_ids_has_them_spelled() -> None:
    sampler = Scripted(
        [sequence("One. Two"), sequence("Six.<|im_end|>"), sequence("<think>a. Two", "length")]
    )
    params = SamplingParams(stop=" Two")
    found = completer_of(sampler, "qwen3").complete(TALK, params, num_samples=3).result().completions
    assert sampler.asked[0][1].stop == ("<|im_end|>", " Two")
    assert [answer.text for answer in found[:2]] == ["One.", "Six."]
    assert [answer.termination for answer in found[:2]] == [ParseTermination.STOP_SEQUENCE] * 2
    assert found[0].tokens == sequence("One. Two").tokens


def test_further_token_ids_join_those_of_the_format() -> None:
    dot = TINY.encode(".")[0]
    sampler = Scripted([sequence("One.")])
    completer = completer_of(sampler, "qwen3_instruct")
    (answer,) = completer.complete(TALK, SamplingParams(stop=[dot])).result().completions
    assert sampler.asked[0][1].stop == (IM_END, dot)
    assert (answer.text, answer.termination) == ("One", ParseTermination.STOP_SEQUENCE)


@pytest.mark.parametrize("stop", [[7], ["a", 7], ["a", ""]])
def test_stops_that_do_not_go_together_are_refused_before_anything_is_sampled(stop: Any) -> None:
    sampler = Scripted()
    with pytest.raises(ConfigError, match="stop"):
        completer_of(sampler, "role_colon").complete(TALK, SamplingParams(stop=stop))
    assert sampler.asked == []


def test_tools_are_offered_in_the_formats_own_words_and_calls_come_back() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    sampler = Scripted([sequence(call)])
    talk = [Message(role="system", content="Be brief."), *TALK]
    tool = ToolSpec(name="add", description="Adds.", parameters={"type": "object"})
    (answer,) = completer_of(sampler, "qwen3").complete(talk, FREE, tools=[tool]).result().completions
    written = TINY.decode(sampler.asked[0][0].to_ints())
    assert written.count("<|im_start|>system") == 1
    assert "Be brief." in written
    assert '"name": "add"' in written
    assert [(made.name, made.decoded_arguments()) for made in answer.message.tool_calls] == [
        ("add", {"a": 1})
    ]
    with pytest.raises(RenderError, match="tools"):
        completer_of(sampler, "role_colon").complete(talk, FREE, tools=[tool])


def test_an_error_of_the_sampler_or_of_reading_its_answer_comes_from_the_handle() -> None:
    failing = Scripted(error=ServiceError(what="gone", where="sample", retryable=True))
    with pytest.raises(ServiceError, match="gone"):
        completer_of(failing, "qwen3").complete(TALK, FREE).result()
    beyond = Scripted([sequence("a<|im_end|>b<|im_end|>")])
    with pytest.raises(RenderError, match="2 stop tokens"):
        completer_of(beyond, "qwen3").complete(TALK, FREE).result()
