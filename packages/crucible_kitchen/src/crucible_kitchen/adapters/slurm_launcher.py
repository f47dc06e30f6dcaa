"""A Launcher on a Slurm cluster, through submitit."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit

from crucible_ir import ConfigError, NotFoundError, ServiceError
from crucible_kitchen.adapters.torchrun import command_of, environment_of
from crucible_train.ports import Job, JobState, JobStatus, Resources

__all__ = ["NodeProgram", "SlurmLauncher"]

_LOOK_S = 2.0
_STATES: Mapping[str, JobState] = {
    **dict.fromkeys(("UNKNOWN", "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "READY"), "queued"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED"), "running"),
    "COMPLETED": "succeeded",
    "CANCELLED": "cancelled",
}
_FIRST_PORT, _PORTS = 20_000, 20_000


class SlurmLauncher:
    """Submits jobs with sbatch; each node runs one torchrun, and those of several nodes meet on the first.

    ``root`` and the homes of runs must lie where every node sees them. What a job leaves open is taken from the
    options: ``nodes``, ``cpus``, ``gpus`` and ``memory_gib`` of a node, ``time_limit_s``. ``partition``, ``account``,
    ``qos`` and ``setup`` (shell lines before the job) are the cluster's own; ``more`` are further flags of sbatch.
    """

    def __init__(
        self,
        *,
        root: Path,
        nodes: int = 1,
        cpus: int | None = None,
        gpus: int | None = None,
        memory_gib: float | None = None,
        time_limit_s: float = 86_400.0,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        setup: tuple[str, ...] = (),
        more: Mapping[str, str | int] | None = None,
    ) -> None:
        self._root = root / "slurm"
        self._usual = Resources(
            nodes=nodes, cpus=cpus, gpus=gpus, memory_gib=memory_gib, time_limit_s=time_limit_s
        )
        named = {"partition": partition, "account": account, "qos": qos, "setup": list(setup) or None}
        self._cluster = {name: value for name, value in named.items() if value is not None}
        self._more = dict(more or {})

    def submit(self, job: Job) -> str:
        """Hand it to sbatch.

        Raises:
            ConfigError: there is no Slurm here.
            ServiceError: sbatch refuses it; says why.
        """
        job = replace(job, resources=_filled(job.resources, self._usual))
        try:
            executor = submitit.SlurmExecutor(folder=self._root / "%j")
        except RuntimeError as error:
            raise ConfigError(
                what=f"there is no Slurm here ({error})",
                where="slurm launcher",
                remedy="run this on a node of the cluster from which sbatch works",
            ) from error
        executor.update_parameters(**self._parameters(job))
        try:
            submitted = executor.submit(NodeProgram(job))
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise ServiceError(
                what=f"sbatch did not take the job ({str(error).strip()})",
                where="slurm launcher",
                remedy="correct [ports.launcher] of the manifest, such as partition, account or time_limit_s",
            ) from error
        return str(submitted.job_id)

    def status(self, job_id: str) -> JobStatus:
        """As the job itself has written down or, until then, as sacct says.

        Raises:
            NotFoundError: there is no such job.
        """
        folder = self._folder(job_id)
        ended = folder / "ended.json"
        if ended.is_file():
            code = int(json.loads(ended.read_text(encoding="utf-8"))["exit_code"])
            if code and (folder / "cancelled").exists():
                return JobStatus(state="cancelled", exit_code=code)
            return JobStatus(state="succeeded" if code == 0 else "failed", exit_code=code)
        said = submitit.SlurmJob(folder=str(self._root / "%j"), job_id=job_id).get_info(mode="force")
        state = (said.get("State") or "UNKNOWN").partition(" ")[0]
        return JobStatus(state=_STATES.get(state, "failed"), reason=state.lower().replace("_", " "))

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until it is over, at most ``timeout_s`` seconds; asks every two seconds.

        Raises:
            NotFoundError: there is no such job.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = self.status(job_id)
            left = None if deadline is None else deadline - time.monotonic()
            if status.over or (left is not None and left <= 0):
                return status
            time.sleep(_LOOK_S if left is None else min(_LOOK_S, left))

    def cancel(self, job_id: str) -> None:
        """Scancel: SIGTERM, and SIGKILL after the cluster's KillWait.

        Raises:
            NotFoundError: there is no such job.
            ServiceError: scancel fails.
        """
        folder = self._folder(job_id)
        if self.status(job_id).over:
            return
        (folder / "cancelled").touch()
        try:
            submitit.SlurmJob(folder=str(self._root / "%j"), job_id=job_id).cancel()
        except (subprocess.CalledProcessError, OSError) as error:
            raise ServiceError(
                what=f"scancel failed ({error})", where="slurm launcher", remedy="try again"
            ) from error

    def logs(self, job_id: str) -> str:
        """What it has printed so far, on all nodes.

        Raises:
            NotFoundError: there is no such job.
        """
        place = self._folder(job_id) / "log.json"
        if not place.is_file():
            return ""
        log = Path(json.loads(place.read_text(encoding="utf-8"))["log"])
        return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""

    async def close(self) -> None:
        """Nothing to let go of; jobs go on."""
        return

    def _parameters(self, job: Job) -> dict[str, Any]:
        wants = job.resources
        found: dict[str, Any] = {
            "job_name": job.name,
            "nodes": wants.nodes,
            "ntasks_per_node": 1,
            "time": max(1, round((wants.time_limit_s or 60) / 60)),
            "cpus_per_task": wants.cpus or wants.processes,
            "stderr_to_stdout": True,
            **self._cluster,
        }
        if wants.gpus:
            found["gpus_per_node"] = wants.gpus
        if wants.memory_gib is not None:
            found["mem"] = f"{round(wants.memory_gib * 1024)}M"
        if self._more:
            found["additional_parameters"] = self._more
        return found

    def _folder(self, job_id: str) -> Path:
        folder = self._root / job_id
        if not job_id.isdigit() or not folder.is_dir():
            raise NotFoundError(
                what=f"there is no job {job_id!r}",
                where=str(self._root),
                remedy="give the id that submit returned",
            )
        return folder


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """What runs on each node: the job's command, its output in the job's log, its exit code in the job's folder."""

    job: Job

    def __call__(self) -> int:
        """Run it to its end.

        Raises:
            RuntimeError: it failed; Slurm is to see that.
        """
        here = submitit.JobEnvironment()
        folder = here.paths.folder
        nodes = here.num_nodes
        meet_at = f"{here.hostnames[0]}:{_FIRST_PORT + int(here.job_id) % _PORTS}" if nodes > 1 else None
        if here.node == 0:
            _write(folder / "log.json", {"log": str(self.job.log)})
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            code = subprocess.run(
                command_of(self.job, nodes=nodes, meet_at=meet_at),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.job.folder,
                env=environment_of(self.job, os.environ),
                check=False,
            ).returncode
        if here.node == 0:
            _write(folder / "ended.json", {"exit_code": code})
        if code:
            raise RuntimeError(f"the command ended with {code}")
        return code

    def checkpoint(self) -> None:
        """No new submission by itself when Slurm takes the node away: whoever wants it resumes the run."""
        return


def _write(path: Path, value: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(value), encoding="utf-8")
    draft.rename(path)


def _filled(wants: Resources, usual: Resources) -> Resources:
    """``wants`` with the usual where it leaves something open."""

    def chosen(name: str) -> Any:
        given = getattr(wants, name)
        return getattr(usual, name) if given is None else given

    names = ("nodes", "cpus", "gpus", "memory_gib", "time_limit_s")
    return Resources(processes=wants.processes, **{name: chosen(name) for name in names})
