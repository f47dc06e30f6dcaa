"""Finds the verb, runs it, and turns errors into one message and a documented exit code.

Nothing but the standard library is imported until a verb is called, so that ``crucible --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from crucible_kitchen.plugins.discovery import Plugin, discover
from crucible_kitchen.plugins.groups import COMMANDS

__all__ = ["entry", "main"]

_INTERRUPTED = 130


def entry() -> None:
    """The console script.

    Threads of torch that spin while they wait slow down whatever else runs here, other runs most of all; whoever has
    the machine to himself may set OMP_WAIT_POLICY=ACTIVE.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code (see ``crucible_ir.ExitCode``)."""
    words = list(arguments)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            return _say(overview())
        if words[0] in ("-V", "--version", "version"):
            from importlib.metadata import version

            return _say(f"crucible {version('crucible-kitchen')}\n")
        return _verb(words[0], words[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()


def _say(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _reader_gone() -> int:
    """Whoever read our output has seen enough: what is left of it goes nowhere, and that is no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 0


def overview() -> str:
    """The help text: every verb with its summary, none of them imported."""
    plugins = {plugin.name: plugin for plugin in discover(COMMANDS)}
    width = max((len(name) for name in plugins), default=0)
    lines = ["Train, compare and promote language models, and prove where they came from.", ""]
    lines += ["Usage: crucible VERB [OPTIONS]", "", "Verbs:"]
    lines += [f"  {name:<{width}}  {plugin.summary()}" for name, plugin in sorted(plugins.items())]
    lines += [
        "",
        "crucible VERB --help says more; most verbs take --json.",
        "First time here? crucible quickstart",
        "",
    ]
    return "\n".join(lines)


def _verb(name: str, words: list[str]) -> int:
    from crucible_ir import CrucibleError, ExitCode
    from crucible_kitchen.cli.output import report_bug, report_error

    as_json = "--json" in words
    try:
        return _call(_find(name), words)
    except CrucibleError as error:
        report_error(error, as_json=as_json)
        return int(error.exit_code)
    except OSError as error:
        from crucible_ir import StorageError

        failure = StorageError(what=error.strerror or str(error), where=str(error.filename or ""))
        report_error(failure, as_json=as_json)
        return int(ExitCode.STORAGE)
    except Exception as error:  # noqa: BLE001 - the boundary: Python's own trace would show secrets
        report_bug(error, as_json=as_json)
        return int(ExitCode.FAILED)


def _find(name: str) -> Plugin:
    from crucible_ir import ConfigError, nearest
    from crucible_kitchen.plugins.discovery import find, names

    known = names(COMMANDS)
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(
            what=f"no verb is called {name!r}",
            where="crucible",
            remedy=f"did you mean {near!r}?" if near else "crucible --help lists them",
        )
    return find(COMMANDS, name)


def _call(plugin: Plugin, words: list[str]) -> int:
    """Let typer parse ``words`` for the verb's function, call it, and give its exit code."""
    import functools

    import typer

    from crucible_kitchen.plugins.loading import load

    verb = load(plugin)
    codes: list[int] = []

    @functools.wraps(verb)
    def called(*args: Any, **settings: Any) -> None:
        try:
            codes.append(int(verb(*args, **settings) or 0))
        except BrokenPipeError:  # typer would call it a failure
            codes.append(_reader_gone())

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(plugin.name)(called)
    try:
        app(args=words, prog_name=f"crucible {plugin.name}", standalone_mode="--json" not in words)
    except SystemExit as stop:
        return codes[0] if codes else int(stop.code or 0)
    except Exception as error:
        told = _usage_error(plugin.name, error)
        if told is None:
            raise
        raise told from None
    return codes[0] if codes else 0


def _usage_error(verb: str, error: Exception) -> Exception | None:
    """Our own error for words that typer cannot parse; its error classes differ between its versions."""
    from crucible_ir import ConfigError

    tell = getattr(error, "format_message", None)
    if tell is None:
        return None
    return ConfigError(what=str(tell()), where=verb, remedy=f"crucible {verb} --help shows the options")
