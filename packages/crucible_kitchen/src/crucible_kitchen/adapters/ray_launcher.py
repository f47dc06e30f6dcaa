"""A Launcher on a Ray cluster, through the Ray Jobs API."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from crucible_ir import ConfigError, NotFoundError, ServiceError
from crucible_kitchen.adapters.torchrun import command_of, environment_of
from crucible_train.ports import Job, JobState, JobStatus

__all__ = ["RayLauncher"]

_LOOK_S = 0.5
_GIB = 1024**3
_STATES: Mapping[str, JobState] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


class RayLauncher:
    """Submits jobs to the Ray head at ``address`` (``http://host:8265``); Ray finds a node with the resources.

    ``token`` is that of a cluster with token authentication. ``python`` is the interpreter on the nodes, which must
    have the same packages and see the homes of runs. All processes of a job are on one node. Ray keeps the
    output itself.
    """

    required_modules = ("ray",)

    def __init__(
        self,
        *,
        address: str,
        token: str | None = None,
        python: str = "python",
        cpus: int | None = None,
        gpus: int | None = None,
        memory_gib: float | None = None,
    ) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else None
        self._python = python
        self._cpus = cpus
        self._gpus = gpus
        self._memory_gib = memory_gib
        self._connected: Any = None

    def submit(self, job: Job) -> str:
        """Hand it to the head.

        Raises:
            ConfigError: several nodes.
            ServiceError: Ray does not answer, or does not take it.
        """
        wants = job.resources
        if wants.nodes not in (None, 1):
            raise ConfigError(
                what=f"nodes = {wants.nodes}",
                where="ray launcher",
                remedy="leave it out; a job of Ray runs on one node; slurm starts one on several",
            )
        memory = wants.memory_gib or self._memory_gib
        command = shlex.join(command_of(job, python=self._python))
        return str(
            self._asked(
                "submit_job",
                entrypoint=f"cd {shlex.quote(str(job.folder))} && exec {command}",
                runtime_env={"env_vars": environment_of(job, {})},
                metadata={"name": job.name},
                entrypoint_num_cpus=wants.cpus or self._cpus or wants.processes,
                entrypoint_num_gpus=wants.gpus if wants.gpus is not None else self._gpus,
                entrypoint_memory=None if memory is None else round(memory * _GIB),
            )
        )

    def status(self, job_id: str) -> JobStatus:
        """How the job stands now.

        Raises:
            NotFoundError: there is no such job.
            ServiceError: Ray does not answer.
        """
        info = self._asked("get_job_info", job_id)
        state = _STATES[str(info.status.value)]
        code = info.driver_exit_code
        return JobStatus(state=state, exit_code=code, reason=info.message or "")

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until it is over, at most ``timeout_s`` seconds; asks twice a second.

        Raises:
            NotFoundError, ServiceError: as ``status``.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = self.status(job_id)
            left = None if deadline is None else deadline - time.monotonic()
            if status.over or (left is not None and left <= 0):
                return status
            time.sleep(_LOOK_S if left is None else min(_LOOK_S, left))

    def cancel(self, job_id: str) -> None:
        """SIGTERM, and SIGKILL after the cluster's RAY_JOB_STOP_WAIT_TIME_S.

        Raises:
            NotFoundError, ServiceError: as ``status``.
        """
        if not self.status(job_id).over:
            self._asked("stop_job", job_id)

    def logs(self, job_id: str) -> str:
        """What it has printed so far.

        Raises:
            NotFoundError, ServiceError: as ``status``.
        """
        return str(self._asked("get_job_logs", job_id))

    async def close(self) -> None:
        """Forget the connection; jobs go on."""
        self._connected = None

    def _asked(self, method: str, *words: Any, **settings: Any) -> Any:
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient

        try:
            if self._connected is None:
                self._connected = JobSubmissionClient(self._address, headers=self._headers)
            return getattr(self._connected, method)(*words, **settings)
        except (RuntimeError, ConnectionError, RayError) as error:
            said = str(error).strip()
            if "does not exist" in said or "404" in said:
                raise NotFoundError(
                    what=f"Ray knows no job {', '.join(map(str, words))}",
                    where=self._address,
                    remedy="give the id that submit returned",
                ) from error
            raise ServiceError(
                what=f"Ray refuses or does not answer ({said.partition(chr(10))[0]})",
                where=self._address,
                remedy="start the cluster, or correct address and token in [ports.launcher] of the manifest",
            ) from error
