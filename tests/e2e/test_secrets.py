"""A6: a planted token appears in no log, event, spec, report or error of any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode

TOKEN = "hf_PlantedTokenThatMustNeverShowUp123456"


def everything_under(home: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_planted_token_is_in_no_file_and_no_message(
    crucible: Any, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    texts = []
    for words in (
        ("run", "sl_basic", *small, "max_steps=1", "-q"),
        ("run", "sl_basic", *small, "max_steps=1", f"name=run-{TOKEN}", "-q"),
        ("run", "sl_basic", "model=tiny", f"data.path=./{TOKEN}.jsonl", "batch_size=8"),
        ("run", "sl_basic", f"model=./{TOKEN}", "data.path=tiny", "batch_size=8", "--json"),
        ("run", "sl_basic", f"modle={TOKEN}"),
        ("doctor",),
        ("runs",),
        ("show", "last"),
        ("logs", "last"),
        ("show", "last", "--json"),
    ):
        _, out, err = crucible(*words)
        texts.append(out + err)
    assert any("quickstart" not in text and "run_" in text for text in texts)
    assert not [text for text in texts if TOKEN in text]
    assert TOKEN.encode() not in everything_under(crucible.home)


@pytest.mark.slow
def test_a_token_that_fails_inside_a_run_is_taken_out_of_its_record(
    crucible: Any, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_API_KEY", TOKEN)
    data = tmp_path / "rows.jsonl"
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
    bad = '{"messages": [{"role": "user", "content": "Hi", "' + TOKEN + '": 1}]}\n'
    data.write_text(good * 8 + bad)
    code, out, err = crucible(
        "run",
        "sl_basic",
        "model=tiny",
        f"data.path={data}",
        "data.eval_split=none",
        "batch_size=4",
        "eval_every=0",
        'data.mapping={"schema": "raw"}',
    )
    assert code == ExitCode.DATA
    assert '"run.failed"' in (crucible.run_dirs()[0] / "events.jsonl").read_text()
    assert TOKEN not in out + err
    assert TOKEN.encode() not in everything_under(crucible.home)
