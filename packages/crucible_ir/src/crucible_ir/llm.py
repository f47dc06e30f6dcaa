"""Language-model calls: prompts with message parts, options, completions, capabilities, usage."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from crucible_ir.contract import Contract
from crucible_ir.errors import nearest
from crucible_ir.json_values import JsonData, JsonObject
from crucible_ir.vocabulary import FinishReason, ResponseFormat, Role, ToolChoiceMode

__all__ = [
    "AudioPart",
    "Completion",
    "CompletionChoice",
    "CompletionOptions",
    "ImagePart",
    "LLMCapabilities",
    "MessagePart",
    "NamedTool",
    "Prompt",
    "PromptMessage",
    "TextPart",
    "TokenUsage",
    "ToolCall",
    "ToolDef",
    "ToolResultPart",
]


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("should be base64") from None
    return text


Base64Text = Annotated[str, AfterValidator(_base64)]
"""Bytes as base64 text, kept as text."""


class TextPart(Contract):
    """Text."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Contract):
    """An image: a URL, or bytes with their media type."""

    type: Literal["image"] = "image"
    url: str | None = None
    data: Base64Text | None = Field(default=None, validate_default=True)
    media_type: str = "image/png"

    @field_validator("data")
    @classmethod
    def _one_source(cls, data: str | None, info: ValidationInfo) -> str | None:
        if "url" in info.data and (data is None) == (info.data["url"] is None):
            raise ValueError("should be given when 'url' is not, and only then")
        return data


class AudioPart(Contract):
    """Sound."""

    type: Literal["audio"] = "audio"
    data: Base64Text
    media_type: str = "audio/wav"


class ToolResultPart(Contract):
    """What a tool returned."""

    type: Literal["tool_result"] = "tool_result"
    tool_call_id: str
    content: JsonData = None
    is_error: bool = False


MessagePart = Annotated[TextPart | ImagePart | AudioPart | ToolResultPart, Field(discriminator="type")]
"""One part of a message, told apart by ``type``."""


class ToolCall(Contract):
    """A call that the model wants made."""

    id: str
    name: str = Field(min_length=1)
    arguments: JsonObject = Field(default_factory=dict)


class PromptMessage(Contract):
    """One turn: text, or parts in order."""

    role: Role
    content: str | tuple[MessagePart, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message, parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class ToolDef(Contract):
    """A tool the model may call."""

    name: str = Field(min_length=1)
    description: str = ""
    parameters: JsonObject = Field(default_factory=dict)
    """JSON Schema of the arguments."""


class NamedTool(Contract):
    """The one tool that must be called."""

    name: str = Field(min_length=1)


def _stop(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _tool_choice(value: Any) -> Any:
    if isinstance(value, str) and value not in list(ToolChoiceMode):
        return NamedTool(name=value) if value else value
    return NamedTool(**value) if isinstance(value, Mapping) and set(value) == {"name"} else value


class CompletionOptions(Contract):
    """How to complete; None leaves the service's default."""

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: Annotated[tuple[str, ...], BeforeValidator(_stop)] = ()
    response_format: ResponseFormat = ResponseFormat.TEXT
    json_schema: JsonObject | None = Field(default=None, validate_default=True)
    """Needed when ``response_format`` is ``json_schema``."""
    stream: bool = False
    cache_control: str | None = None
    extended_thinking: bool = False
    thinking_budget_tokens: int | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)
    extra: JsonObject = Field(default_factory=dict)

    @field_validator("json_schema")
    @classmethod
    def _needed_for_its_format(
        cls, json_schema: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        if json_schema is None and info.data.get("response_format") is ResponseFormat.JSON_SCHEMA:
            raise ValueError("should be given when response_format is 'json_schema'")
        return json_schema


class Prompt(Contract):
    """What is sent to a model."""

    messages: tuple[PromptMessage, ...] = Field(min_length=1)
    system: str | None = None
    tools: tuple[ToolDef, ...] = ()
    tool_choice: Annotated[ToolChoiceMode | NamedTool, BeforeValidator(_tool_choice)] = ToolChoiceMode.AUTO
    """A mode, or the name of one of the tools."""
    options: CompletionOptions = CompletionOptions()
    request_id: str | None = None
    trace_id: str | None = None
    metadata: JsonObject = Field(default_factory=dict)

    @field_validator("tool_choice")
    @classmethod
    def _among_the_tools(
        cls, choice: ToolChoiceMode | NamedTool, info: ValidationInfo
    ) -> ToolChoiceMode | NamedTool:
        names = [tool.name for tool in info.data.get("tools", ())]
        if isinstance(choice, NamedTool) and "tools" in info.data and choice.name not in names:
            known = [*names, *(mode.value for mode in ToolChoiceMode)]
            near = nearest(choice.name, known)
            hint = f"did you mean {near!r}?" if near else f"valid: {', '.join(known)}"
            raise ValueError(f"no tool and no mode is called {choice.name!r}; {hint}")
        return choice


class TokenUsage(Contract):
    """Tokens of one completion."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    """Thinking included."""
    thinking_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    """Those of the prompt that came from a cache."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


class CompletionChoice(Contract):
    """One answer."""

    index: int = Field(default=0, ge=0)
    message: PromptMessage
    finish_reason: FinishReason = FinishReason.STOP
    thinking: str | None = None


class Completion(Contract):
    """What came back."""

    choices: tuple[CompletionChoice, ...] = ()
    model: str | None = None
    usage: TokenUsage = TokenUsage()
    latency_s: float | None = Field(default=None, ge=0)
    time_to_first_token_s: float | None = Field(default=None, ge=0)
    request_id: str | None = None
    trace_id: str | None = None
    raw_response: JsonObject | None = None
    metadata: JsonObject = Field(default_factory=dict)

    @property
    def text(self) -> str | None:
        """Text of the first answer; None when there is none."""
        return self.choices[0].message.text if self.choices else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Tool calls of the first answer."""
        return self.choices[0].message.tool_calls if self.choices else ()


class LLMCapabilities(Contract):
    """What a service can do, how much of it, and at what price."""

    backend_id: str = Field(min_length=1)
    provider: str = Field(min_length=1)
    models: tuple[str, ...] = ()
    default_model: str | None = None
    supports_streaming: bool = True
    supports_tools: bool = True
    supports_vision: bool = False
    supports_audio: bool = False
    supports_json_mode: bool = True
    supports_extended_thinking: bool = False
    supports_caching: bool = False
    max_tokens: int | None = Field(default=None, ge=0)
    max_context_length: int | None = Field(default=None, ge=0)
    max_images_per_request: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_minute: int | None = Field(default=None, ge=0)
    cost_per_million_input: float | None = Field(default=None, ge=0)
    """US dollars."""
    cost_per_million_output: float | None = Field(default=None, ge=0)
    """US dollars."""
    metadata: JsonObject = Field(default_factory=dict)
