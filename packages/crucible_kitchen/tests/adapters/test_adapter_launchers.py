"""Launchers with real processes: here, and on a Slurm whose commands are small programs of the test."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import ConfigError, ServiceError
from crucible_kitchen.adapters.local_launcher import LocalLauncher
from crucible_kitchen.adapters.slurm_launcher import SlurmLauncher
from crucible_kitchen.adapters.torchrun import command_of, environment_of
from crucible_testing.contracts.launcher import LauncherContract
from crucible_train.ports import Job, Launcher, Resources

Make = Callable[..., Job]

SBATCH = """
import os, pathlib, subprocess, sys
place = pathlib.Path(os.environ["FAKE_SLURM"])
script = pathlib.Path(sys.argv[-1]).read_text()
if "--partition=full" in script:
    sys.exit("sbatch: error: invalid partition specified: full")
number = str(len(list(place.glob("*.script"))) + 1)
(place / f"{number}.script").write_text(script)
env = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
       "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
job = subprocess.Popen(["bash", place / f"{number}.script"], env=env, start_new_session=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
(place / f"{number}.group").write_text(str(job.pid))
print("Submitted batch job", number)
"""
SRUN = """
import os, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words = words[1:] if words[0] in ("--unbuffered",) else words[2:]
os.execvp(words[0], words)
"""
SACCT = """
import os, pathlib, sys
place = pathlib.Path(os.environ["FAKE_SLURM"])
print("JobID|State|NodeList")
for group in place.glob("*.group"):
    try:
        os.kill(int(group.read_text()), 0)
        print(f"{group.stem}|RUNNING|here")
    except ProcessLookupError:
        print(f"{group.stem}|FAILED|here")
"""
SCANCEL = """
import os, pathlib, signal, sys
os.killpg(int((pathlib.Path(os.environ["FAKE_SLURM"]) / f"{sys.argv[1]}.group").read_text()), signal.SIGTERM)
"""


class TestLocalLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, tmp_path: Path) -> Launcher:
        return LocalLauncher(root=tmp_path / "jobs")

    @pytest.fixture
    def new_launcher(self, tmp_path: Path) -> Callable[[], Launcher]:
        return lambda: LocalLauncher(root=tmp_path / "jobs")

    def test_a_job_waits_for_slots_and_for_those_before_it(self, make_job: Make, tmp_path: Path) -> None:
        launcher = LocalLauncher(root=tmp_path / "jobs", slots=1)
        flags = [tmp_path / name for name in ("first", "second")]
        first, second = (launcher.submit(make_job("hold", str(flag))) for flag in flags)
        assert launcher.wait(second, 0.3).state == "queued"
        assert not flags[1].exists()
        for flag in flags:
            Path(f"{flag}.free").touch()
        assert [launcher.wait(job, 60).state for job in (first, second)] == ["succeeded", "succeeded"]

    def test_a_job_that_waits_can_be_cancelled(self, make_job: Make, tmp_path: Path) -> None:
        launcher = LocalLauncher(root=tmp_path / "jobs", slots=1)
        first, second = (launcher.submit(make_job("hold", str(tmp_path / name))) for name in "ab")
        launcher.cancel(second)
        assert launcher.wait(second, 60).state == "cancelled"
        assert not (tmp_path / "b").exists()
        launcher.cancel(first)
        assert launcher.wait(first, 60).state == "cancelled"

    def test_a_program_that_ignores_the_signal_is_killed(self, make_job: Make, tmp_path: Path) -> None:
        (tmp_path / "code" / "deaf.py").write_text(
            "import pathlib, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(600)\n"
        )
        job = make_job(str(tmp_path / "begun"))
        launcher = LocalLauncher(root=tmp_path / "jobs", grace_s=0.1)
        job_id = launcher.submit(
            Job(
                name="deaf", module="deaf", arguments=job.arguments, env=job.env, folder=tmp_path, log=job.log
            )
        )
        while not (tmp_path / "begun").exists():
            launcher.wait(job_id, 0.05)
        launcher.cancel(job_id)
        assert launcher.wait(job_id, 60).exit_code == -9

    def test_a_job_has_its_time(self, make_job: Make, tmp_path: Path) -> None:
        launcher = LocalLauncher(root=tmp_path / "jobs")
        job_id = launcher.submit(make_job("hold", str(tmp_path / "x"), resources=Resources(time_limit_s=0.2)))
        status = launcher.wait(job_id, 60)
        assert status.state == "failed"
        assert status.exit_code in (130, -15)

    @pytest.mark.parametrize(("wants", "said"), [({"processes": 3}, "3"), ({"nodes": 2}, "nodes = 2")])
    def test_what_does_not_fit_is_refused(
        self, make_job: Make, tmp_path: Path, wants: dict[str, int], said: str
    ) -> None:
        launcher = LocalLauncher(root=tmp_path / "jobs", slots=2)
        with pytest.raises(ConfigError, match=said):
            launcher.submit(make_job("say", resources=Resources(**wants)))
        assert not list((tmp_path / "jobs").glob("job_*"))


class TestSlurmLauncher(LauncherContract):
    missing = "4711"

    @pytest.fixture(autouse=True)
    def slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A Slurm of four small programs, with real processes behind it."""
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
            path = programs / name
            path.write_text(f"#!{sys.executable} -S\n{text}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        place = tmp_path / "slurm"
        place.mkdir()
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM", str(place))
        return place

    @pytest.fixture
    def launcher(self, tmp_path: Path) -> Launcher:
        return SlurmLauncher(root=tmp_path / "jobs", partition="cpu", memory_gib=1.5, more={"nice": 10})

    @pytest.fixture
    def new_launcher(self, tmp_path: Path) -> Callable[[], Launcher]:
        return lambda: SlurmLauncher(root=tmp_path / "jobs")

    def test_what_is_asked_for_reaches_sbatch(self, launcher: Launcher, make_job: Make, slurm: Path) -> None:
        wants = Resources(gpus=2, cpus=3, time_limit_s=7200)
        assert launcher.wait(launcher.submit(make_job("say", resources=wants)), 60).state == "succeeded"
        flags = {
            line[8:] for line in (slurm / "1.script").read_text().splitlines() if line.startswith("#SBATCH")
        }
        assert {
            "--partition=cpu",
            "--gpus-per-node=2",
            "--cpus-per-task=3",
            "--time=120",
            "--mem=1536M",
            "--nodes=1",
            "--ntasks-per-node=1",
            "--job-name=contract",
            "--nice=10",
        } <= flags

    def test_what_sbatch_says_reaches_the_user(self, make_job: Make, tmp_path: Path) -> None:
        launcher = SlurmLauncher(root=tmp_path / "jobs", partition="full")
        with pytest.raises(ServiceError, match="invalid partition specified: full"):
            launcher.submit(make_job("say"))

    def test_without_slurm_it_says_so(
        self, make_job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match="no Slurm here"):
            SlurmLauncher(root=tmp_path / "jobs").submit(make_job("say"))


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    job = Job(
        name="run_1",
        module="a.b",
        arguments=("x",),
        folder=tmp_path,
        log=tmp_path / "l",
        resources=Resources(processes=4),
    )
    torchrun = ["py", "-m", "torch.distributed.run"]
    assert command_of(job, python="py") == [
        *torchrun,
        "--standalone",
        "--nproc-per-node",
        "4",
        "-m",
        "a.b",
        "x",
    ]
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "n1:20007", "--rdzv-id", "run_1"]
    assert command_of(job, python="py", nodes=2, meet_at="n1:20007") == [
        *torchrun,
        *meeting,
        "--nproc-per-node",
        "4",
        "-m",
        "a.b",
        "x",
    ]
    assert environment_of(job, {})["OMP_NUM_THREADS"] == "1"
    assert environment_of(job, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
