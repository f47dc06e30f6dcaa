"""The process that looks after one local job: it waits for slots, runs the command and writes down how it ended.

``python -m crucible_kitchen.adapters.local_job FOLDER`` with ``job.json`` there; the standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["main"]

_LOOK_S = 0.1


def main(folder: Path) -> int:
    """Run the job of ``folder`` to its end; the lock on ``alive.lock`` lasts as long as this process."""
    ending = _Ending()
    with (folder / "alive.lock").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        spec = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        code: int | None = None
        with contextlib.suppress(_Cancelled), _slots(folder.parent, spec["wants"], spec["slots"], ending):
            code = _run(folder, spec, ending)
        outcome = {"exit_code": code, "cancelled": ending.asked}
        draft = folder / ".ended.json"
        draft.write_text(json.dumps(outcome), encoding="utf-8")
        draft.rename(folder / "ended.json")
        return code or 0


class _Cancelled(Exception):
    """Asked to end before the command began."""


class _Ending:
    """Remembers a signal and hands it on to the command; one that does not obey in time is killed."""

    def __init__(self) -> None:
        self.asked = False
        self.process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGALRM, self._too_late)

    def begin(self, process: subprocess.Popen[bytes], grace_s: float) -> None:
        self.process, self._grace_s = process, grace_s
        if self.asked:
            self._signalled(signal.SIGTERM, None)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.process is not None:
            self._send(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def _too_late(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def _run(folder: Path, spec: dict[str, Any], ending: _Ending) -> int:
    with Path(spec["log"]).open("ab") as log:
        process = subprocess.Popen(
            spec["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=spec["folder"],
            start_new_session=True,
        )
        (folder / "started").touch()
        ending.begin(process, spec["grace_s"])
        try:
            return process.wait(spec["time_limit_s"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(spec["grace_s"])
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


@contextlib.contextmanager
def _slots(root: Path, wants: int, slots: int | None, ending: _Ending) -> Iterator[None]:
    """Hold ``wants`` of the slots of this folder; whoever came first is served first.

    Raises:
        _Cancelled: asked to end while waiting.
    """
    with contextlib.ExitStack() as held:
        if slots is not None:
            with _locked(root / "gate.lock", ending):
                free = 0
                while free < wants:
                    free = 0
                    for number in range(slots):
                        lock = held.enter_context((root / f"slot-{number}.lock").open("a"))
                        with contextlib.suppress(BlockingIOError):
                            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            free += 1
                        if free == wants:
                            break
                    if free < wants:
                        held.close()
                        _pause(ending)
        yield


@contextlib.contextmanager
def _locked(path: Path, ending: _Ending) -> Iterator[None]:
    with path.open("a") as lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            _pause(ending)
        yield


def _pause(ending: _Ending) -> None:
    if ending.asked:
        raise _Cancelled
    time.sleep(_LOOK_S)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
