"""How a job's command reads: the module alone, or under torchrun where it is several processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from crucible_train.ports import Job

__all__ = ["Rendezvous", "command_of", "environment_of"]

Rendezvous = str
"""``host:port`` of the first node, where the processes of several nodes meet."""


def command_of(
    job: Job, *, python: str = sys.executable, nodes: int = 1, meet_at: Rendezvous | None = None
) -> list[str]:
    """The command of ``job`` on one node.

    Raises:
        ValueError: several nodes and no place to meet.
    """
    processes = job.resources.processes
    if processes == 1 and nodes == 1:
        return [python, "-m", job.module, *job.arguments]
    if nodes > 1 and meet_at is None:
        raise ValueError("several nodes need a place to meet")
    meeting = (
        ["--standalone"]
        if meet_at is None
        else [
            "--nnodes",
            str(nodes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            meet_at,
            "--rdzv-id",
            job.name,
        ]
    )
    start = [python, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", str(processes)]
    return [*start, "-m", job.module, *job.arguments]


def environment_of(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with the job's own variables; modules are not looked for in the folder where it starts.

    One thread for each of several processes, unless somebody has chosen: they share the cores.
    """
    found = {**environ, "PYTHONSAFEPATH": "1", **job.env}
    if job.resources.processes > 1:
        found.setdefault("OMP_NUM_THREADS", "1")
    return found
