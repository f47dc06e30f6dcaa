"""``crucible render``: tokens with their weights, conversations from files, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, DataError, ExitCode
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.main import main
from crucible_kitchen.cli.render import print_tokens, read_conversations
from crucible_kitchen.operations.render_models import ShownToken
from crucible_testing.backend import write_bigram_model
from crucible_testing.bench import plant_bigram

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TOKENS = [
    ShownToken(id=0, text="user\n"),
    ShownToken(id=1, text="hi", weight=1.0),
    ShownToken(id=2, text="\x1b\t.", weight=0.5),
    ShownToken(id=3, text="!"),
]


@pytest.fixture
def bigram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A model folder and a manifest whose engine takes it; its tokenizer of bytes has no chat template."""
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "bigram")))
    manifest = tmp_path / "bigram.toml"
    manifest.write_text('profile = "bigram"\n[ports.training_backend]\nadapter = "bigram"\n')
    return str(write_bigram_model(tmp_path / "model")), str(manifest)


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["render", *words])
        return code, *capsys.readouterr()

    return call


def test_show_puts_what_carries_loss_between_marks_in_a_pipe(
    command: Callable[..., tuple[int, str, str]], bigram: tuple[str, str], tmp_path: Path
) -> None:
    model, manifest = bigram
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(CHAT))
    code, out, err = command("show", model, "-r", "role_colon", "-m", manifest, "-c", str(file))
    assert (code, err) == (0, "")
    assert out == "1: 28 tokens\nUser: a↵↵Assistant:⟦ b↵↵User:⟧\n"


def test_show_gives_tokens_ids_and_weights_as_json(
    command: Callable[..., tuple[int, str, str]], bigram: tuple[str, str]
) -> None:
    model, manifest = bigram
    code, out, _ = command("show", model, "-r", "role_colon", "-m", manifest, "--json")
    shown = json.loads(out)
    by_name = {one["name"]: one for one in shown["conversations"]}
    assert code == 0
    assert shown["renderer"] == "role_colon"
    assert "".join(token["text"] for token in by_name["plain"]["tokens"]).startswith("User: What is 2 + 2?")
    assert {token["weight"] for token in by_name["plain"]["tokens"]} == {0.0, 1.0}
    assert "🙂" in "".join(token["text"] for token in by_name["spaces"]["tokens"])
    assert by_name["tools"]["tokens"] == []
    assert "has no tools" in by_name["tools"]["reason"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("check", "MODEL", "-r", "role_colon", "-m", "MANIFEST"),
            ExitCode.USAGE,
            "no chat template to compare",
        ),
        (("show", "MODEL", "-r", "chat_template", "-m", "MANIFEST"), ExitCode.USAGE, "has no chat template"),
        (
            ("show", "MODEL", "-r", "role_colom", "-m", "MANIFEST"),
            ExitCode.USAGE,
            "did you mean 'role_colon'?",
        ),
        (("show", "MODEL", "-m", "MANIFEST"), ExitCode.USAGE, "no renderer is known for the model"),
        (("chek", "MODEL"), ExitCode.USAGE, "unknown action 'chek'; did you mean 'check'?"),
        (("erase", "MODEL"), ExitCode.USAGE, "one of check, show"),
        (
            ("show", "MODEL", "--train-on-what", "nothing"),
            ExitCode.USAGE,
            "should be 'last_assistant_message'",
        ),
        (("show", "MODEL", "--date", "tomorrow"), ExitCode.USAGE, "current_date"),
        (
            ("show", "MODEL", "-c", "/no/such/file"),
            ExitCode.DATA,
            "/no/such/file: the conversation file cannot",
        ),
        (("show", "MODEL", "-r", "role_colon", "-m", "ofline"), ExitCode.USAGE, "offline"),
    ],
)
def test_wrong_input_is_named_with_its_exit_code(
    command: Callable[..., tuple[int, str, str]],
    bigram: tuple[str, str],
    words: tuple[str, ...],
    code: ExitCode,
    said: str,
) -> None:
    given = {"MODEL": bigram[0], "MANIFEST": bigram[1]}
    if "-r" not in words and "-m" not in words:
        words = (*words, "-r", "role_colon")
    found, out, err = command(*(given.get(word, word) for word in words))
    assert (found, out) == (code, "")
    assert said in err


def test_the_bundled_model_is_asked_for_where_it_is_not_installed(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "crucible_tiny", None)
    code, _, err = command("show", "tiny")
    assert code == ExitCode.ADAPTER
    assert "crucible-tiny, which is not installed" in err


def test_a_caller_from_outside_names_no_folder_and_no_file(home: Path, bigram: tuple[str, str]) -> None:
    outside = Crucible(home, environ={}, trusted=False)
    with pytest.raises(ConfigError, match="names a file of this machine") as caught:
        outside.render_show(bigram[0], renderer="role_colon", manifest=bigram[1])
    assert {problem.path for problem in caught.value.problems} == {"manifest", "model"}


@pytest.mark.parametrize(
    ("tool", "said"),
    [({"name": 3}, r"conversations\[0\]\.tools\[0\]: a tool with name"), ({}, "a tool with nothing")],
)
def test_a_tool_that_is_none_is_named(
    home: Path, bigram: tuple[str, str], tool: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        Crucible(home, environ={}).render_show(
            bigram[0],
            renderer="role_colon",
            manifest=bigram[1],
            conversations=[{"messages": CHAT, "tools": [tool]}],
        )


def test_a_message_that_is_none_is_named_by_its_path(home: Path, bigram: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"conversations\[0\]\.messages\[1\].*did you mean 'content'"):
        Crucible(home, environ={}).render_show(
            bigram[0],
            renderer="role_colon",
            manifest=bigram[1],
            conversations=[{"messages": [CHAT[0], {"role": "assistant", "contents": "b"}]}],
        )


# --- files -------------------------------------------------------------------------------------------------


TOOLED = {"messages": CHAT, "tools": [{"name": "t"}]}
NAMED = {"messages": CHAT, "name": "n"}
SEPARATED = [{"role": "user", "content": "a\u2028b\x85c"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps(CHAT), [{"messages": CHAT}]),
        (json.dumps({**TOOLED, "source": "x"}), [TOOLED]),
        (f"{json.dumps(NAMED)}\n\n{json.dumps(CHAT)}\n", [NAMED, {"messages": CHAT}]),
        (
            f"{json.dumps(NAMED)}\r\n{json.dumps(SEPARATED, ensure_ascii=False)}",
            [NAMED, {"messages": SEPARATED}],
        ),
    ],
)
def test_a_file_holds_a_conversation_or_one_per_line(
    tmp_path: Path, text: str, expected: list[dict[str, Any]]
) -> None:
    file = tmp_path / "chats"
    file.write_bytes(text.encode())
    assert read_conversations(file) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"{broken", "is not JSON"),
        (b'{"rows": []}', "holds no conversation"),
        (b"[]", "holds no conversation"),
        (b'[["a"]]', "holds no conversation"),
        (b"\xff\xfe", "cannot be read (it is not UTF-8)"),
        (json.dumps(CHAT).encode() + b"\n{broken\n", "chats:2: the conversation file is not JSON"),
        (json.dumps(CHAT).encode() + b"\n{}\n", "chats:2: the conversation file holds no conversation"),
    ],
)
def test_a_file_that_holds_none_is_named_with_line_and_reason(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "chats"
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(said)):
        read_conversations(file)


# --- tokens on a line --------------------------------------------------------------------------------------


def test_a_pipe_gets_marks_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_tokens(TOKENS, label="> ", differs_at=2)
    assert capsys.readouterr().out == "> user↵⟦hi⟨\\x1b→.⟩⟧!\n"


def test_a_terminal_gets_colours_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_tokens(TOKENS)
    coloured = capsys.readouterr().out
    assert "\x1b[1;32mhi\x1b[0m" in coloured
    assert "\\x1b" in coloured
    assert "⟦" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    print_tokens(TOKENS)
    assert "\x1b" not in capsys.readouterr().out
