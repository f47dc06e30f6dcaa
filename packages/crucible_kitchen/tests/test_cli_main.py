"""The command's top level: help without imports, exit codes, one sentence per error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode, StorageError
from crucible_kitchen.cli.main import entry, main, overview
from crucible_kitchen.cli.output import print_table, report_error

VERBS = '''
"""Verbs of a test."""
import os
from crucible_ir import ConfigError, Problem

def greet(name: str, loud: bool = False) -> int:
    """Greet somebody."""
    print(f"hello {name}{'!' if loud else ''}")
    return 0

def seven() -> int:
    """Return seven."""
    return 7

def nothing() -> None:
    """Return nothing."""

def stop() -> int:
    """Be interrupted."""
    raise KeyboardInterrupt

def full() -> int:
    """Meet a full disk."""
    raise OSError(28, "No space left on device", "somewhere")

def wrong(json: bool = False) -> int:
    """Say what is wrong, with a secret in it."""
    raise ConfigError(problems=[
        Problem(path="a.b", message=f"is {os.environ.get('PROBE_API_KEY')}", remedy="mend it"),
        Problem(path="c", message="is missing"),
    ])
'''

ENTRIES = """
[crucible.commands]
greet = probe_verbs:greet
seven = probe_verbs:seven
nothing = probe_verbs:nothing
stop = probe_verbs:stop
full = probe_verbs:full
wrong = probe_verbs:wrong
absent = probe_verbs:absent
"""

BUILT_IN = (
    "adapters cancel config decide doctor export logs recipes resume run runs show stages workflows".split()
)


@pytest.fixture
def verbs(package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "probe_verbs", raising=False)
    return package("probe-verbs", {"probe_verbs.py": VERBS}, ENTRIES)


# --- help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    listed = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("  ")
    }
    assert set(BUILT_IN) <= set(listed)
    assert listed["run"] == "Run a recipe with settings, and watch it."


def test_help_imports_neither_typer_nor_pydantic_nor_any_verb() -> None:
    script = (
        "import sys\nfrom crucible_kitchen.cli.main import main\nmain(['--help'])\n"
        "heavy = ('typer', 'click', 'rich', 'pydantic', 'numpy', 'crucible_kitchen.cli.run', 'anyio')\n"
        "print('loaded', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("verb", BUILT_IN)
def test_every_verb_has_help_of_its_own(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"crucible {verb}" in out
    assert "--json" in out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--version", "-V", "version"):
        assert main([word]) == 0
        assert capsys.readouterr().out == "crucible 0.1.0\n"


def test_the_console_script_exits_with_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crucible", "nosuchverb"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit) as caught:
        entry()
    assert caught.value.code == ExitCode.USAGE


# --- verbs that join -------------------------------------------------------------------------------------------


def test_a_verb_of_another_package_is_listed_and_called(
    verbs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Greet somebody." in overview()
    assert main(["greet", "you", "--loud"]) == 0
    assert capsys.readouterr().out == "hello you!\n"


def test_what_a_verb_returns_is_the_exit_code(verbs: Path) -> None:
    assert main(["seven"]) == 7
    assert main(["nothing"]) == 0


def test_an_interrupt_is_130(verbs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop"]) == 130


def test_a_verb_that_its_package_lost_is_an_adapter_error(
    verbs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["absent"]) == ExitCode.ADAPTER
    assert "probe-verbs" in capsys.readouterr().err


def test_a_full_disk_is_a_storage_error(verbs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["full"]) == ExitCode.STORAGE
    assert capsys.readouterr().err == "error: somewhere: No space left on device\n"


@pytest.mark.parametrize("words", ["--help", "stages --json"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m crucible_kitchen {words} | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


# --- errors ----------------------------------------------------------------------------------------------------


def test_an_unknown_verb_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resum", "x"]) == ExitCode.USAGE
    assert capsys.readouterr().err == ("error: crucible: no verb is called 'resum'; did you mean 'resume'?\n")
    assert main(["zzzzzz"]) == ExitCode.USAGE
    assert "crucible --help lists them" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run"], ["run", "x", "--no-such-option"], ["runs", "--limit", "many"]])
def test_wrong_usage_is_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == ExitCode.USAGE
    assert capsys.readouterr().err


def test_every_problem_is_a_line_and_secrets_are_taken_out(
    verbs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_API_KEY", "planted-0123456789")
    assert main(["wrong"]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith("error: 2 problems:\n  1. a.b: is ")
    assert err.endswith("; mend it\n  2. c: is missing\n")
    assert "planted" not in err


def test_with_json_an_error_is_one_document_on_standard_error(
    verbs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wrong", "--json"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    body = json.loads(captured.err)["error"]
    assert (body["kind"], body["exit_code"]) == ("ConfigError", 2)
    assert body["problems"][1] == {"path": "c", "message": "is missing", "remedy": ""}


def test_notes_of_an_error_are_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = StorageError(what="full", where="disk")
    error.add_note("and nothing could be written about it")
    report_error(error, as_json=False)
    assert capsys.readouterr().err == "error: disk: full\nand nothing could be written about it\n"


# --- tables ----------------------------------------------------------------------------------------------------

ROWS: list[tuple[Any, ...]] = [("one", 1.23456789, None), ("three", 3, "[bold]x")]


def test_a_table_in_a_pipe_is_aligned_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "value", "note"), ROWS, empty="none")
    assert capsys.readouterr().out == "name   value  note\none    1.235\nthree  3      [bold]x\n"


def test_a_table_on_a_terminal_shows_the_same_cells_literally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("name", "value", "note"), ROWS, empty="none")
    out = capsys.readouterr().out
    for cell in ("name", "three", "1.235", "[bold]x"):
        assert cell in out


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [], empty="nothing here")
    assert capsys.readouterr().out == "nothing here\n"


@pytest.mark.parametrize(("given", "then"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others_unless_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, then: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["crucible", "--version"])
    with pytest.raises(SystemExit):
        entry()
    assert os.environ["OMP_WAIT_POLICY"] == then


@pytest.mark.parametrize(
    ("words", "told"),
    [(("runs", "--limit", "0"), "--limit"), (("show",), "run_id"), (("runs", "--limt", "3"), "--limt")],
)
def test_words_that_cannot_be_parsed_are_told_as_json_too(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)["error"]
    assert told in error["what"]
    assert f"crucible {words[0]} --help" in error["remedy"]
