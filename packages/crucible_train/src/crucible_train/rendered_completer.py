"""A completer over any sampler: a renderer writes the conversation, and reads the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crucible_ir.errors import ConfigError
from crucible_train.ports import Completion, CompletionResponse, Handle, SamplingClient
from crucible_train.renderers import Message, ParseTermination, Renderer, ToolSpec
from crucible_train.types import SampledSequence, SampleResponse, SamplingParams, StopCondition

__all__ = ["RenderedCompleter"]

_Stops = tuple[str, ...] | tuple[int, ...]


class RenderedCompleter:
    """Answers in the chat format of ``renderer`` with the weights of ``sampler``, which it owns from then on."""

    def __init__(self, sampler: SamplingClient, renderer: Renderer) -> None:
        self._sampler = sampler
        self._renderer = renderer

    def complete(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        num_samples: int = 1,
        tools: Sequence[ToolSpec] = (),
    ) -> Handle[CompletionResponse]:
        """``num_samples`` answers; one request of the sampler, submitted at once.

        Raises:
            ConfigError: no message, or no sample is asked for.
            RenderError: the chat format cannot express the conversation or the tools.
        Raises (from the handle):
            RenderError: the sampler went on behind the end of an answer.
        """
        if not messages:
            raise ConfigError(what="no message", where="messages", remedy="give one message at least")
        if num_samples < 1:
            raise ConfigError(
                what=f"num_samples = {num_samples}", where="num_samples", remedy="give 1 or more"
            )
        prompt = self._renderer.build_generation_prompt(self._offered(messages, tools))
        further = _further(params.stop)
        asked = replace(params, stop=_joined(self._renderer, further))
        sampled = self._sampler.sample(prompt, asked, num_samples=num_samples)

        def read(response: SampleResponse) -> CompletionResponse:
            completions = tuple(self._read(sequence, further) for sequence in response.sequences)
            return CompletionResponse(completions=completions, prompt_tokens=prompt.length)

        return sampled.then(read)

    async def close(self) -> None:
        """Close the sampler; closing twice is harmless."""
        await self._sampler.close()

    def _offered(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Sequence[Message]:
        """The conversation behind the format's own offer of the tools, which takes a leading system message in."""
        if not tools:
            return messages
        leads = messages[0].role == "system"
        system_prompt = messages[0].text if leads else ""
        offer = self._renderer.create_conversation_prefix_with_tools(tools, system_prompt)
        return [*offer, *messages[leads:]]

    def _read(self, sequence: SampledSequence, further: _Stops) -> Completion:
        before = self._before(sequence.tokens, further)
        stopped = before is not None
        message, termination = self._renderer.parse_response(sequence.tokens if before is None else before)
        if stopped and not termination.is_clean:
            termination = ParseTermination.STOP_SEQUENCE
        return Completion(
            message=message,
            stop_reason="stop" if stopped else sequence.stop_reason,
            termination=termination,
            token_count=len(sequence.tokens),
            tokens=sequence.tokens,
            logprobs=sequence.logprobs,
        )

    def _before(self, tokens: Sequence[int], further: _Stops) -> Sequence[int] | None:
        """What comes before the first of the further stops; None where none of them is there."""
        if not tokens or not further:
            return None
        if tokens[-1] in further:
            return tokens[:-1]
        tokenizer = self._renderer.tokenizer
        text = tokenizer.decode(tokens)
        places = [text.find(stop) for stop in further if isinstance(stop, str) and stop in text]
        return tokenizer.encode(text[: min(places)], allow_special=True) if places else None


def _further(stop: StopCondition) -> _Stops:
    """Places to stop beside the format's own.

    Raises:
        ConfigError: an empty stop string, or strings and ids mixed.
    """
    items = (stop,) if isinstance(stop, str) else tuple(stop or ())
    strings = tuple(item for item in items if isinstance(item, str))
    ids = tuple(item for item in items if isinstance(item, int))
    if "" in strings or (strings and ids):
        raise ConfigError(
            what=f"stop = {stop!r}",
            where="SamplingParams.stop",
            remedy="give non-empty strings, or token ids",
        )
    return strings or ids


def _joined(renderer: Renderer, further: _Stops) -> _Stops:
    """The format's own stops and further ones; token ids of the format are spelled where the further ones are text.

    Raises:
        ConfigError: token ids for a format that ends its answers with text.
    """
    own = renderer.stop_sequences
    if not further:
        return own
    spelled = tuple(stop if isinstance(stop, str) else renderer.tokenizer.decode([stop]) for stop in own)
    strings = tuple(stop for stop in further if isinstance(stop, str))
    if strings:
        return (*spelled, *strings)
    ids = tuple(stop for stop in own if isinstance(stop, int))
    if len(ids) != len(own):
        raise ConfigError(
            what=f"stop = {list(further)!r}, and answers in the format {renderer.name!r} end with text",
            where="SamplingParams.stop",
            remedy="give strings",
        )
    return (*ids, *(stop for stop in further if isinstance(stop, int)))
