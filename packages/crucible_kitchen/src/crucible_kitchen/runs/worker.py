"""A process of its own for one run: ``python -m crucible_kitchen.runs.worker RUN_ID``.

Under torchrun (``--processes N``) it is the first of N that executes the run; the others take part in its training.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from crucible_ir import CrucibleError, ExitCode, StorageError
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.credentials import redactor_for
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.runs.execution import RunExecutor
from crucible_kitchen.runs.folder import RunFolder, RunSettings
from crucible_kitchen.runs.home import HOME_VARIABLE, Home
from crucible_kitchen.runs.store import RunStore

__all__ = ["RedactingStream", "detach", "follow", "main"]


class RedactingStream(io.TextIOBase):
    """Text passed on line by line without secrets."""

    def __init__(self, target: TextIO, redactor: Redactor) -> None:
        self._target = target
        self._redactor = redactor
        self._line = ""

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The target's, for who writes past this stream."""
        return self._target.fileno()

    def write(self, text: str) -> int:
        """Pass on complete lines; keep the rest until its line is complete."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._target.write(self._redactor.text(line) + "\n")
        self._target.flush()
        return len(text)

    def finish(self) -> None:
        """Pass on what is left of an unfinished line."""
        self._target.write(self._redactor.text(self._line))
        self._line = ""
        self._target.flush()


def detach(
    run: RunFolder,
    home: Home,
    *,
    environ: Mapping[str, str],
    resume: bool = False,
    checkpoint: str | None = None,
) -> int:
    """Start a worker for ``run`` that outlives this process; returns its process id.

    Its output goes to ``worker.log`` in the run's folder.

    Raises:
        StorageError: the log file cannot be opened.
    """
    # -P: the run's folder becomes the working folder, and modules are not to be looked for there
    command = [sys.executable, "-P", "-m", "crucible_kitchen.runs.worker", run.run_id]
    if resume:
        command.append("--resume")
    if checkpoint is not None:
        command += ["--checkpoint", checkpoint]
    folder = str(run.creation().data.get("folder", ""))
    try:
        with (run.path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environ, HOME_VARIABLE: str(home.root)},
                cwd=folder if Path(folder).is_dir() else None,
            )
    except OSError as error:
        raise StorageError(
            what=f"the worker cannot be started: {error.strerror or error}",
            where=str(run.path),
            remedy="free space or make the folder writable",
        ) from error
    threading.Thread(target=process.wait, name=f"worker-{run.run_id}", daemon=True).start()
    return process.pid


def follow(run: RunFolder, home: Home) -> None:
    """Take part in the training of the process that has ``run``, until it ends.

    Raises:
        CrucibleError: the engine cannot be made, or another process is gone.
    """
    ports = ManifestPorts(run.manifest(), home=home.root, environ=os.environ)
    engine = ports.get("training_backend")
    try:
        engine.follow()
    finally:
        ports.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or resume one run; the exit code is that of ``crucible run``."""
    parser = argparse.ArgumentParser(prog="crucible_kitchen.runs.worker")
    parser.add_argument("run_id")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    home = Home.default(os.environ)
    redactor = redactor_for(os.environ)
    output = RedactingStream(sys.stderr, redactor)
    sys.stdout = sys.stderr = output
    try:
        run = RunStore(home, settings=RunSettings(redact=redactor)).open(options.run_id)
        if options.processes > 1 and os.environ.get("RANK") != "0":
            follow(run, home)
            return ExitCode.OK
        executor = RunExecutor(home, processes=options.processes)
        if options.resume:
            executor.resume(run, options.checkpoint)
        else:
            executor.start(run)
        return ExitCode.OK
    except CrucibleError as error:
        output.write(f"{error}\n")
        return error.exit_code
    except Exception:  # noqa: BLE001 - the end of the process: the trace goes to worker.log
        output.write(traceback.format_exc())
        return ExitCode.FAILED
    finally:
        output.finish()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


if __name__ == "__main__":
    raise SystemExit(main())
