"""The renderer ``chat_template`` and ``crucible render`` over the bundled model and real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode

FIRST = [{"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "On the mat."}]


def test_the_renderer_of_the_bundled_model_is_its_template(crucible: Any) -> None:
    code, out, err = crucible("render", "check", "tiny")
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    assert lines[0].split() == ["plain", "equal"]
    assert "leaves out a tool call" in out
    assert last == "qwen3_instruct and the chat template of tiny: 5 equal, 4 refused by the template"


def test_a_difference_is_shown_where_it_begins_and_counts(crucible: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(FIRST))
    code, out, _ = crucible("render", "check", "tiny", "-r", "qwen3", "-c", str(file))
    assert code == ExitCode.FAILED
    lines = out.splitlines()
    assert lines[0] == "1  different"
    assert lines[1].startswith("  first difference: token ")
    assert "assistant↵⟦⟨<think>⟩" in lines[2]
    assert "assistant↵⟨On⟩" in lines[3]
    report = crucible("render", "check", "tiny", "-r", "qwen3", "-c", str(file), "--json")
    found = json.loads(report[1])
    assert (report[0], found["equal"]) == (ExitCode.FAILED, False)
    example, prompt = found["conversations"][0]["sequences"]
    assert (example["part"], prompt["part"], prompt["equal"]) == ("example", "prompt", True)
    at = example["at"] - example["from_position"]
    assert example["renderer"][at]["text"] == "<think>"
    assert example["renderer"][at]["weight"] == 1.0
    assert example["template"][at]["text"] == "On"


def test_the_bundled_model_trains_on_its_own_template(crucible: Any, small: tuple[str, ...]) -> None:
    code, _, err = crucible("run", "sl_basic", *small, "renderer=chat_template", "max_steps=2", "-q")
    assert code == 0, err
    first = crucible.json("show", "last")["run"]
    code, _, err = crucible("run", "sl_basic", *small, "renderer=qwen3_instruct", "max_steps=2", "-q")
    assert code == 0, err
    second = crucible.json("show", "last")["run"]
    assert first["metrics"]["test/nll"] == pytest.approx(second["metrics"]["test/nll"], abs=1e-6)


def test_an_unknown_model_is_not_found(crucible: Any) -> None:
    code, out, err = crucible("render", "check", "no_such_model", "-r", "qwen3")
    assert (code, out) == (ExitCode.NOT_FOUND, "")
    assert "no tokenizer can be loaded from no_such_model" in err


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "words", "said"),
    [
        ("qwen3", ("-r", "qwen3"), "9 equal"),
        ("qwen3", ("-r", "chat_template"), "9 equal"),
        ("gpt-oss", ("-r", "chat_template", "--date", "2025-01-01"), "9 equal"),
        ("llama-3.1-instruct", ("-r", "chat_template"), "7 equal, 2 refused by both"),
    ],
)
def test_real_templates_are_written_token_by_token(
    crucible: Any, shared_data: Path, folder: str, words: tuple[str, ...], said: str
) -> None:
    code, out, err = crucible("render", "check", str(shared_data / "tokenizers" / folder), *words)
    assert (code, err) == (0, "")
    assert said in out.splitlines()[-1]
