"""The shipped files: where they are, how large, whether they are what was built, and that train and test are apart."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import crucible_tiny

PACKAGE = Path(crucible_tiny.__file__).parent
BUILD = Path(__file__).resolve().parents[1] / "build" / "build.py"
DATA_SETS = {"chat": 300, "preference": 300, "arithmetic": 250}


def rows(name: str) -> list[dict[str, object]]:
    return [
        json.loads(line) for line in crucible_tiny.data_path(name).read_text(encoding="utf-8").splitlines()
    ]


def digest(row: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def questions(name: str) -> set[str]:
    """Everything a user asks that pins a fact or a sum down, follow-ups and greetings aside."""
    found = set()
    for row in rows(name):
        messages = row["messages"]
        assert isinstance(messages, list)
        found |= {
            message["content"]
            for message in messages
            if message["role"] == "user"
            and " the " in message["content"]
            and not message["content"].startswith("And")
        }
    return found


def test_the_package_is_at_most_eight_megabytes() -> None:
    size = sum(
        path.stat().st_size
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    assert 1_000_000 < size <= 8_000_000


def test_every_shipped_file_has_the_digest_it_was_built_with() -> None:
    lines = (PACKAGE / "SHA256SUMS").read_text().splitlines()
    listed = {name: want for want, name in (line.split("  ") for line in lines)}
    shipped = {
        path.relative_to(PACKAGE).as_posix()
        for part in ("model", "data")
        for path in (PACKAGE / part).iterdir()
        if path.is_file()
    }
    assert set(listed) == shipped
    for name, want in listed.items():
        assert hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() == want, name


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_no_row_is_in_both_train_and_test(data_set: str) -> None:
    train = {digest(row) for row in rows(f"{data_set}_train")}
    test = [digest(row) for row in rows(f"{data_set}_test")]
    assert len(test) == len(set(test)) >= DATA_SETS[data_set]
    assert not train & set(test)


def test_no_question_about_a_fact_is_asked_in_both_train_and_test() -> None:
    train, test = questions("chat_train"), questions("chat_test")
    assert len(test) > 50
    assert not train & test


def test_chats_are_many_some_in_several_turns_and_some_with_a_system_prompt() -> None:
    chats = [row["messages"] for row in rows("chat_train")]
    assert len(chats) >= 2000
    assert all(isinstance(messages, list) and messages[-1]["role"] == "assistant" for messages in chats)
    several = [m for m in chats if isinstance(m, list) and sum(turn["role"] == "user" for turn in m) > 1]
    prompted = [m for m in chats if isinstance(m, list) and m[0]["role"] == "system"]
    assert len(several) > 400
    assert len(prompted) > 400


def test_a_preference_row_is_a_prompt_with_two_different_answers() -> None:
    for row in rows("preference_train"):
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert row["chosen"] != row["rejected"]


def test_every_arithmetic_answer_is_right() -> None:
    for row in rows("arithmetic_train") + rows("arithmetic_test"):
        left, right = str(row["question"]).removeprefix("What is ").removesuffix("?").split(" + ")
        assert int(left) + int(right) == int(str(row["answer"]))


def test_an_unknown_data_set_is_named_with_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"'chats'.*arithmetic_test.*chat_train"):
        crucible_tiny.data_path("chats")


def test_the_same_seed_makes_the_same_bytes_as_were_shipped(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(BUILD), "--data-only", "--out", str(tmp_path)], check=True, capture_output=True
    )
    made = sorted((tmp_path / "data").iterdir()) + [
        tmp_path / "model" / name for name in ("tokenizer.json", "tokenizer_config.json")
    ]
    assert len(made) == 8
    for path in made:
        assert path.read_bytes() == (PACKAGE / path.relative_to(tmp_path)).read_bytes(), path.name
