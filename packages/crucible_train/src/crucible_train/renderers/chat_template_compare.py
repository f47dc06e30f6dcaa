"""Whether a renderer writes what the tokenizer's own chat template writes: token by token, on whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crucible_ir.errors import ConfigError
from crucible_train.ports.chat_template import ChatTemplated, TemplateCall
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.chat_template_rows import Row, row_of, tool_row
from crucible_train.renderers.chat_template_text import LEFT_OUT, Draft, TemplateWriter
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.message import Message, TextPart, ThinkingPart, ToolCall, ToolSpec
from crucible_train.renderers.rendered import SupervisedExample
from crucible_train.renderers.train_on_what import TrainOnWhat

__all__ = [
    "CONVERSATIONS",
    "Comparison",
    "Conversation",
    "Written",
    "compare_with_template",
    "example_of",
]

Part = Literal["example", "prompt"]

_NO_GUARD = "\uf8ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages and the tools on offer, under a name; a system message comes first."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One sequence twice: ``ours`` with a weight for each id, and the template's.

    ``at`` is the first position at which they differ; None where they do not, white space that the template
    writes behind the end of ours aside.
    """

    part: Part
    ours: tuple[int, ...]
    weights: tuple[float, ...]
    theirs: tuple[int, ...]
    at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A conversation by renderer and template: what both wrote, and why one of them did not."""

    name: str
    written: tuple[Written, ...] = ()
    renderer_refuses: str | None = None
    template_refuses: str | None = None


_SYSTEM = Message(role="system", content="You are a helpful assistant.")
_ASK = Message(role="user", content="What is 2 + 2?")
_SUM = Message(role="assistant", content="It is 4.")
_AGAIN = Message(role="user", content="And 3 + 3?")
_SECOND = Message(role="assistant", content="It is 6.")
_TOOL = ToolSpec(
    name="get_weather",
    description="Look up the weather",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
_WEATHER = Message(role="user", content="How is the weather in Paris?")
_CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}', id="call00000")
_CALLING = Message(role="assistant", content="", tool_calls=(_CALL,))
_RESULT = Message(role="tool", content="sunny", name="get_weather", tool_call_id="call00000")
_SUNNY = Message(role="assistant", content="It is sunny in Paris.")


def _thinking(thought: str, text: str) -> Message:
    return Message(role="assistant", content=(ThinkingPart(thought), TextPart(text)))


CONVERSATIONS = (
    Conversation(name="plain", messages=(_ASK, _SUM)),
    Conversation(name="system", messages=(_SYSTEM, _ASK, _SUM)),
    Conversation(name="turns", messages=(_ASK, _SUM, _AGAIN, _SECOND)),
    Conversation(name="system_turns", messages=(_SYSTEM, _ASK, _SUM, _AGAIN, _SECOND)),
    Conversation(
        name="spaces",
        messages=(
            Message(role="user", content="  Repeat this:\n\n1. naïve 🙂\n"),
            Message(role="assistant", content="1. naïve 🙂\n\n\tdone"),
        ),
    ),
    Conversation(name="reasoning", messages=(_ASK, _thinking("Two and two.", "It is 4."))),
    Conversation(
        name="reasoning_turns",
        messages=(
            _ASK,
            _thinking("Two and two.", "It is 4."),
            _AGAIN,
            _thinking("Three and three.", "It is 6."),
        ),
    ),
    Conversation(name="tools", messages=(_SYSTEM, _WEATHER, _CALLING), tools=(_TOOL,)),
    Conversation(name="tool_result", messages=(_WEATHER, _CALLING, _RESULT, _SUNNY)),
)
"""What renderers are compared on where no other conversations are given."""


def example_of(renderer: Renderer, conversation: Conversation, what: TrainOnWhat) -> SupervisedExample:
    """The example that training would see.

    Raises:
        RenderError: the renderer refuses the conversation.
    """
    return renderer.build_supervised_example(_with_tools(renderer, conversation), what)


def compare_with_template(
    renderer: Renderer, conversation: Conversation, what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE
) -> Comparison:
    """The whole conversation, and the prompt before its last message if that is an answer, by both.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """
    tokenizer = renderer.tokenizer
    if not isinstance(tokenizer, ChatTemplated) or tokenizer.chat_template is None:
        raise ConfigError(
            what="the tokenizer has no chat template to compare with",
            where="chat_template",
            remedy="name a model whose tokenizer_config.json has one",
        )
    theirs, refused = _of_template(tokenizer, conversation, renderer.settings.current_date)
    ours: list[SupervisedExample] = []
    reason = None
    try:
        ours = _of_renderer(renderer, conversation, what)
    except RenderError as error:
        reason = str(error)
    if reason is not None or refused is not None:
        return Comparison(name=conversation.name, renderer_refuses=reason, template_refuses=refused)
    parts: tuple[Part, Part] = ("example", "prompt")
    return Comparison(
        name=conversation.name,
        written=tuple(
            _compared(renderer, part, one, tokenizer_ids)
            for part, one, tokenizer_ids in zip(
                parts,
                ours,
                [renderer.tokenizer.encode(text, allow_special=True) for text in theirs],
                strict=True,
            )
        ),
    )


def _prompted(messages: Sequence[Message]) -> Sequence[Message]:
    return messages[:-1] if messages and messages[-1].role == "assistant" else messages


def _with_tools(renderer: Renderer, conversation: Conversation) -> list[Message]:
    messages = list(conversation.messages)
    if not conversation.tools:
        return messages
    system = messages.pop(0).text if messages and messages[0].role == "system" else ""
    return [*renderer.create_conversation_prefix_with_tools(conversation.tools, system), *messages]


def _of_renderer(
    renderer: Renderer, conversation: Conversation, what: TrainOnWhat
) -> list[SupervisedExample]:
    example = example_of(renderer, conversation, what)
    prompt = renderer.build_generation_prompt(_prompted(_with_tools(renderer, conversation)))
    return [example, SupervisedExample(prompt, example.weights[:0])]


def _of_template(
    tokenizer: ChatTemplated, conversation: Conversation, current_date: str | None
) -> tuple[list[str], str | None]:
    """The two texts, or the template's reason; arguments of calls are given as text where an object is refused."""
    tools = tuple(tool_row(tool) for tool in conversation.tools)
    refused: str | None = None
    for as_text in (False, True):
        rows = [
            row_of(one, index=i, arguments_as_text=as_text) for i, one in enumerate(conversation.messages)
        ]
        asked = rows[: len(_prompted(conversation.messages))]
        calls = [
            TemplateCall(messages=tuple(rows), tools=tools),
            TemplateCall(messages=tuple(asked), tools=tools, add_generation_prompt=True),
        ]
        texts = tokenizer.render_chats(calls, current_date=current_date)
        errors = [text.error for text in texts if text.error is not None]
        if not errors:
            refused = _left_out(TemplateWriter(tokenizer, current_date), tuple(rows), tools)
            return [text.text for text in texts], refused
        refused = refused or errors[0]
    return [], refused


def _left_out(writer: TemplateWriter, rows: tuple[Row, ...], tools: tuple[Row, ...]) -> str | None:
    """What of the conversation the template says nothing of; reasoning counts in the last message alone."""
    try:
        chat = writer.conversation(Draft(rows=rows, tools=tools, guard=_NO_GUARD))
        bare = writer.write([TemplateCall(messages=rows)])[0]
    except RenderError as error:
        return str(error)
    if tools and bare.text == chat.text:
        return "it leaves out the tools"
    last = chat.places[-1]
    if last is not None and last.problem == LEFT_OUT.format("reasoning"):
        return f"messages[{len(rows) - 1}]: it leaves out the reasoning"
    return None


def _compared(renderer: Renderer, part: Part, one: SupervisedExample, theirs: Sequence[int]) -> Written:
    ours = one.model_input.to_ints()
    shared = min(len(ours), len(theirs))
    at = next((i for i in range(shared) if ours[i] != theirs[i]), None)
    rest = renderer.tokenizer.decode(theirs[shared:])
    if at is None and (len(ours) > shared or rest.strip() or (part == "prompt" and rest)):
        at = shared
    weights = tuple(one.weights.tolist()) if part == "example" else (0.0,) * len(ours)
    return Written(part=part, ours=tuple(ours), weights=weights, theirs=tuple(theirs), at=at)
