"""The schemas that rows come in, each with its columns and what a row becomes.

Chat schemas give ``{"messages": [...]}``; preference schemas give ``{"prompt": [...], "chosen": [...],
"rejected": [...]}``, lists of messages all, where chosen and rejected go on from the prompt. A score below 0 is for
the first response, one above 0 for the second, and 0 is a tie, which nobody wins. Problem schemas give
``{"problem": text, "answer": text}``, and are never guessed: a row of theirs could as well be a chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from crucible_datasets.mapping.messages import (
    Message,
    Unfit,
    assistant_text,
    message_list,
    parse_human_assistant,
    text_or_messages,
)
from crucible_datasets.mapping.problems import (
    answer_after_hashes,
    answer_as_given,
    answer_in_box,
    problem_of,
)

__all__ = ["SCHEMAS", "Schema"]

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One schema: its fields with the column names usual for them, and how a row is turned."""

    name: str
    fields: tuple[tuple[str, tuple[str, ...]], ...]
    """Field and its usual columns, best first."""
    required: frozenset[str]
    turn: Callable[[Values], dict[str, Any]]
    """From field values (None where the row has none) to the mapped row; raises ``Unfit``."""
    guessed: bool = True
    """Whether detection may find it from the columns alone."""

    @property
    def summary(self) -> str:
        """Name and fields on one line; optional fields in brackets."""
        shown = [name if name in self.required else f"[{name}]" for name, _ in self.fields]
        return f"{self.name} ({', '.join(shown)})"


def _system(values: Values, messages: list[Message]) -> list[Message]:
    system = values.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages


def _messages(values: Values) -> dict[str, Any]:
    return {"messages": assistant_text(_system(values, message_list(values["messages"])))}


def _sharegpt(values: Values) -> dict[str, Any]:
    return {"messages": assistant_text(_system(values, message_list(values["conversations"])))}


def _pair(question: str, answer: str) -> Callable[[Values], dict[str, Any]]:
    def turn(values: Values) -> dict[str, Any]:
        asked = text_or_messages(values[question], role="user", field=question)
        said = text_or_messages(values[answer], role="assistant", field=answer)
        return {"messages": assistant_text(_system(values, asked + said))}

    return turn


def _instruction(values: Values) -> dict[str, Any]:
    asked = text_or_messages(values["instruction"], role="user", field="instruction")
    more = values.get("input")
    if isinstance(more, str) and more.strip():
        asked[-1] = asked[-1] | {"content": f"{asked[-1]['content']}\n\n{more}"}
    said = text_or_messages(values["output"], role="assistant", field="output")
    return {"messages": assistant_text(_system(values, asked + said))}


def _conversation(value: Any, field: str) -> list[Message]:
    if isinstance(value, str):
        return parse_human_assistant(value)
    if value is None:
        raise Unfit(f"{field} is missing")
    return message_list(value)


def _common(chosen: list[Message], rejected: list[Message]) -> int:
    count = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        count += 1
    return count


def _answers(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> dict[str, Any]:
    if chosen == rejected:
        raise Unfit("chosen and rejected are the same")
    if not prompt:
        raise Unfit("chosen and rejected have no prompt in common")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer:
            raise Unfit(f"{name} adds nothing to the prompt")
        if answer[0]["role"] != "assistant":
            raise Unfit("chosen and rejected part at a message that is not the assistant's")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _preference(values: Values) -> dict[str, Any]:
    prompt = _system(values, text_or_messages(values["prompt"], role="user", field="prompt"))
    answers = []
    for name in ("chosen", "rejected"):
        answer = text_or_messages(values[name], role="assistant", field=name)
        spoken = prompt[1:] if prompt[0]["role"] == "system" else prompt
        for begin in (prompt, spoken):
            if begin and answer[: len(begin)] == begin:
                answer = answer[len(begin) :]
                break
        answers.append(answer)
    return _answers(prompt, answers[0], answers[1])


def _preference_conversations(values: Values) -> dict[str, Any]:
    chosen = _conversation(values["chosen"], "chosen")
    rejected = _conversation(values["rejected"], "rejected")
    shared = _common(chosen, rejected)
    if isinstance(values["chosen"], str) and max(len(chosen), len(rejected)) - shared > 1:
        raise Unfit("chosen and rejected part before the last turn")
    return _answers(chosen[:shared], chosen[shared:], rejected[shared:])


def _preference_scored(values: Values) -> dict[str, Any]:
    prompt = _system(values, text_or_messages(values["prompt"], role="user", field="prompt"))
    first, second = (
        text_or_messages(values[name], role="assistant", field=name) for name in ("first", "second")
    )
    score = values["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or score != score:
        raise Unfit("score is missing" if score is None else "score is no number")
    if score == 0:
        raise Unfit("a tie: neither response is preferred")
    return _answers(prompt, first, second) if score < 0 else _answers(prompt, second, first)


_SYSTEM = ("system", ("system", "system_prompt"))
_COMPLETIONS = ("completion", "response", "output", "answer")
_PROBLEM = ("problem", ("problem", "question", "query"))

SCHEMAS: Mapping[str, Schema] = MappingProxyType(
    {
        schema.name: schema
        for schema in (
            Schema(
                name="preference",
                fields=(
                    ("prompt", ("prompt", "question", "instruction", "conversations")),
                    ("chosen", ("chosen", "chosen_response")),
                    ("rejected", ("rejected", "rejected_response")),
                    _SYSTEM,
                ),
                required=frozenset({"prompt", "chosen", "rejected"}),
                turn=_preference,
            ),
            Schema(
                name="preference_conversations",
                fields=(
                    ("chosen", ("chosen", "chosen_messages")),
                    ("rejected", ("rejected", "rejected_messages")),
                ),
                required=frozenset({"chosen", "rejected"}),
                turn=_preference_conversations,
            ),
            Schema(
                name="preference_scored",
                fields=(
                    ("prompt", ("context", "prompt")),
                    ("first", ("response1", "response_1")),
                    ("second", ("response2", "response_2")),
                    ("score", ("overall_preference",)),
                    _SYSTEM,
                ),
                required=frozenset({"prompt", "first", "second", "score"}),
                turn=_preference_scored,
            ),
            Schema(
                name="messages",
                fields=(("messages", ("messages",)), _SYSTEM),
                required=frozenset({"messages"}),
                turn=_messages,
            ),
            Schema(
                name="sharegpt",
                fields=(("conversations", ("conversations", "conversation")), _SYSTEM),
                required=frozenset({"conversations"}),
                turn=_sharegpt,
            ),
            Schema(
                name="instruction",
                fields=(
                    ("instruction", ("instruction",)),
                    ("output", ("output", "response", "completion", "answer")),
                    ("input", ("input", "context")),
                    _SYSTEM,
                ),
                required=frozenset({"instruction", "output"}),
                turn=_instruction,
            ),
            Schema(
                name="prompt_completion",
                fields=(("prompt", ("prompt",)), ("completion", _COMPLETIONS), _SYSTEM),
                required=frozenset({"prompt", "completion"}),
                turn=_pair("prompt", "completion"),
            ),
            Schema(
                name="question_answer",
                fields=(
                    ("question", ("question", "problem", "query")),
                    ("answer", ("answer", "solution", "response")),
                    _SYSTEM,
                ),
                required=frozenset({"question", "answer"}),
                turn=_pair("question", "answer"),
            ),
            Schema(
                name="problem",
                fields=(_PROBLEM, ("answer", ("answer", "final_answer"))),
                required=frozenset({"problem", "answer"}),
                turn=problem_of("answer", answer_as_given, "answer is empty"),
                guessed=False,
            ),
            Schema(
                name="problem_boxed",
                fields=(_PROBLEM, ("solution", ("solution", "answer"))),
                required=frozenset({"problem", "solution"}),
                turn=problem_of("solution", answer_in_box, "no boxed answer in the solution"),
                guessed=False,
            ),
            Schema(
                name="problem_hashes",
                fields=(_PROBLEM, ("answer", ("answer", "solution"))),
                required=frozenset({"problem", "answer"}),
                turn=problem_of("answer", answer_after_hashes, "no answer after ####"),
                guessed=False,
            ),
        )
    }
)
"""Every schema by name, in the order in which detection tries those that it may guess."""
