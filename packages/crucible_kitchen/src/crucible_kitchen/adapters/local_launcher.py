"""A Launcher on this machine: processes of their own, as many at once as there are slots."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible_ir import ConfigError, NotFoundError, StorageError
from crucible_kitchen.adapters.torchrun import command_of, environment_of
from crucible_train.ports import Job, JobStatus

__all__ = ["LocalLauncher"]

_ID = re.compile(r"job_[a-z0-9_]+")
_LOOK_S = 0.05


class LocalLauncher:
    """Runs jobs here. A job of several processes takes as many slots and is started by torchrun.

    ``slots`` None sets no bound. A cancelled job has ``grace_s`` seconds to end by itself. Jobs are folders under
    ``root``, so that any process sees them, and those that wait need nobody who waits for them.
    """

    def __init__(
        self,
        *,
        root: Path,
        slots: int | None = None,
        grace_s: float = 30.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if slots is not None and slots < 1:
            raise ConfigError(what=f"slots = {slots}", where="local launcher", remedy="give 1 or more")
        self._root = root
        self._slots = slots
        self._grace_s = grace_s
        self._environ = os.environ if environ is None else environ

    def submit(self, job: Job) -> str:
        """Start it, or let it wait for slots.

        Raises:
            ConfigError: several nodes, more processes than there are slots.
            StorageError: its files cannot be written.
        """
        self._check(job)
        job_id = f"job_{time.time_ns():x}_{secrets.token_hex(3)}"
        folder = self._root / job_id
        spec = {
            "command": command_of(job),
            "folder": str(job.folder),
            "log": str(job.log),
            "wants": job.resources.processes,
            "slots": self._slots,
            "grace_s": self._grace_s,
            "time_limit_s": job.resources.time_limit_s,
        }
        try:
            folder.mkdir(parents=True)
            (folder / "job.json").write_text(json.dumps(spec), encoding="utf-8")
            self._start(folder, job)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StorageError(
                what=f"the job cannot be started: {error.strerror or error}",
                where=str(folder),
                remedy="free space or make the folder writable",
            ) from error
        return job_id

    def status(self, job_id: str) -> JobStatus:
        """How the job stands now.

        Raises:
            NotFoundError: there is no such job.
        """
        folder = self._folder(job_id)
        alive = _is_locked(folder / "alive.lock")
        ended = _ended(folder)
        if ended is not None:
            code = ended["exit_code"]
            if ended["cancelled"]:
                return JobStatus(state="cancelled", exit_code=code)
            return JobStatus(state="succeeded" if code == 0 else "failed", exit_code=code)
        if not alive:
            return JobStatus(state="failed", reason="the process that looked after it is gone")
        return JobStatus(state="running" if (folder / "started").exists() else "queued")

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until it is over, at most ``timeout_s`` seconds.

        Raises:
            NotFoundError: there is no such job.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = self.status(job_id)
            if status.over or (deadline is not None and time.monotonic() >= deadline):
                return status
            time.sleep(_LOOK_S)

    def cancel(self, job_id: str) -> None:
        """SIGTERM, and SIGKILL after ``grace_s`` seconds; harmless when it is over.

        Raises:
            NotFoundError: there is no such job.
        """
        folder = self._folder(job_id)
        if self.status(job_id).over:
            return
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.kill(int((folder / "pid").read_text(encoding="utf-8")), signal.SIGTERM)

    def logs(self, job_id: str) -> str:
        """What it has printed so far.

        Raises:
            NotFoundError: there is no such job.
        """
        spec = json.loads((self._folder(job_id) / "job.json").read_text(encoding="utf-8"))
        log = Path(spec["log"])
        return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""

    async def close(self) -> None:
        """Nothing to let go of; jobs go on."""
        return

    def _check(self, job: Job) -> None:
        wants = job.resources
        if wants.nodes not in (None, 1):
            raise ConfigError(
                what=f"nodes = {wants.nodes} on one machine",
                where="local launcher",
                remedy="choose the launcher slurm or ray",
            )
        if self._slots is not None and wants.processes > self._slots:
            raise ConfigError(
                what=f"processes = {wants.processes}, but there are {self._slots} slots",
                where="local launcher",
                remedy="ask for fewer, or set slots higher in [ports.launcher] of the manifest",
            )

    def _start(self, folder: Path, job: Job) -> None:
        """The keeper holds ``alive.lock`` before anybody can ask for the job, which inherits its environment."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "crucible_kitchen.adapters.local_job", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment_of(job, self._environ),
            )
        threading.Thread(target=keeper.wait, name=folder.name, daemon=True).start()
        (folder / "pid").write_text(str(keeper.pid), encoding="utf-8")
        while keeper.returncode is None and not _is_locked(folder / "alive.lock"):
            time.sleep(0.005)

    def _folder(self, job_id: str) -> Path:
        folder = self._root / job_id
        if not _ID.fullmatch(job_id) or not (folder / "job.json").is_file():
            raise NotFoundError(
                what=f"there is no job {job_id!r}",
                where=str(self._root),
                remedy="give the id that submit returned",
            )
        return folder


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _ended(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "ended.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
