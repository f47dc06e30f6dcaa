"""``crucible render``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crucible_ir import ConfigError, DataError, ExitCode, nearest
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption
from crucible_kitchen.cli.output import print_json, print_line
from crucible_kitchen.operations.render_models import CheckedConversation, RenderReport, ShownToken

__all__ = ["print_tokens", "read_conversations", "render"]

_ACTIONS = ("check", "show")
_VERDICTS = {
    "equal": "equal",
    "different": "different",
    "renderer_refuses": "refused by the renderer",
    "template_refuses": "refused by the template",
    "both_refuse": "refused by both",
}
_TRAINED, _DIFFERS, _PLAIN = "bold green", "reverse", "dim"


def render(
    action: Annotated[str, typer.Argument(help="check or show.")],
    model: Annotated[str, typer.Argument(help="Folder or hub id of a model; tiny is the bundled one.")],
    renderer: Annotated[
        str | None, typer.Option("--renderer", "-r", help="Renderer; else the one that belongs to the model.")
    ] = None,
    conversation: Annotated[
        Path | None,
        typer.Option("--conversation", "-c", help="JSON or JSON Lines file; else the built-in ones."),
    ] = None,
    train_on_what: Annotated[
        str | None, typer.Option("--train-on-what", help="Which messages carry loss, as in recipes.")
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", help="YYYY-MM-DD, for formats that name the day.")
    ] = None,
    manifest: Annotated[str, typer.Option("--manifest", "-m", help="Profile or manifest file.")] = "offline",
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Hold a renderer against the model's own chat template, or show tokens with their loss weights."""
    if action not in _ACTIONS:
        near = nearest(action, _ACTIONS)
        remedy = f"did you mean {near!r}?" if near else f"one of {', '.join(_ACTIONS)}"
        raise ConfigError(what=f"unknown action {action!r}", where="render", remedy=remedy)
    request: dict[str, Any] = {
        "model": model,
        "renderer": renderer,
        "conversations": [] if conversation is None else read_conversations(conversation),
        "current_date": date,
        "manifest": manifest,
    }
    if train_on_what is not None:
        request["train_on_what"] = train_on_what
    crucible = Crucible(home)
    if action == "show":
        shown = crucible.render_show(**request)
        if as_json:
            print_json(shown.model_dump(mode="json"))
            return 0
        for one in shown.conversations:
            print_line(f"{one.name}: {one.reason or f'{len(one.tokens)} tokens'}")
            if one.tokens:
                print_tokens(one.tokens)
        return 0
    report = crucible.render_check(**request)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_report(report)
    return 0 if report.equal else int(ExitCode.FAILED)


def _print_report(report: RenderReport) -> None:
    width = max(len(one.name) for one in report.conversations)
    for one in report.conversations:
        print_line(f"{one.name:<{width}}  {_VERDICTS[one.verdict]}{': ' * bool(one.reason)}{one.reason}")
        _print_differences(one)
    counts = Counter(_VERDICTS[one.verdict] for one in report.conversations)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print_line(f"{report.renderer} and the chat template of {report.model}: {said}")


def _print_differences(found: CheckedConversation) -> None:
    shown: set[int | None] = {None}
    for one in found.sequences:
        if one.at in shown:  # a prompt that differs where its example does
            continue
        shown.add(one.at)
        assert one.at is not None
        print_line(f"  first difference: token {one.at} of the {one.part}")
        for name, tokens in (("renderer", one.renderer), ("template", one.template)):
            print_tokens(tokens, label=f"  {name}  ", differs_at=one.at - one.from_position)


def print_tokens(tokens: Sequence[ShownToken], *, label: str = "", differs_at: int | None = None) -> None:
    """Tokens on one line: coloured by weight on a terminal, else what carries loss between ⟦ and ⟧.

    ``differs_at`` is the position of a token that stands out (⟨…⟩ without colours).
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print_line(label + _marked(tokens, differs_at))
        return
    from rich.console import Console
    from rich.text import Text

    line = Text(label)
    for number, token in enumerate(tokens):
        style = _TRAINED if token.weight > 0 else _PLAIN
        line.append(_visible(token.text), style=f"{style} {_DIFFERS}" if number == differs_at else style)
    Console().print(line, soft_wrap=True)


def _marked(tokens: Sequence[ShownToken], differs_at: int | None) -> str:
    pieces: list[str] = []
    inside = False
    for number, token in enumerate(tokens):
        if (token.weight > 0) != inside:
            inside = not inside
            pieces.append("⟦" if inside else "⟧")
        text = _visible(token.text)
        pieces.append(f"⟨{text}⟩" if number == differs_at else text)
    return "".join(pieces) + ("⟧" if inside else "")


def _visible(text: str) -> str:
    """Without line breaks and other control characters, which would tear the line or drive the terminal."""
    shown = text.replace("\n", "↵").replace("\t", "→")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in shown)


def read_conversations(path: Path) -> list[dict[str, Any]]:
    """Conversations of a file: a list of messages, an object with ``messages``, or one of these per line.

    Raises:
        DataError: the file cannot be read, or holds something else; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise _unreadable(path, f"cannot be read ({reason})") from error
    try:
        return [_conversation(json.loads(text), str(path))]
    except json.JSONDecodeError as error:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2:
            raise _unreadable(path, f"is not JSON ({error})" if lines else "is empty") from None
    found: list[dict[str, Any]] = []
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            found.append(_conversation(json.loads(line), where))
        except json.JSONDecodeError as error:
            raise _unreadable(Path(where), f"is not JSON ({error})") from None
    return found


def _conversation(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, list):
        value = {"messages": value}
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(row, dict) for row in messages):
        raise _unreadable(Path(where), "holds no conversation")
    return {key: value[key] for key in ("messages", "tools", "name") if value.get(key) is not None}


def _unreadable(path: Path, what: str) -> DataError:
    return DataError(
        what=f"the conversation file {what}",
        where=str(path),
        remedy='give a list of messages, or {"messages": [...], "tools": [...]}, or one of these per line',
    )
