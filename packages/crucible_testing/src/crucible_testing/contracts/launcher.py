"""What every Launcher promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, NotFoundError
from crucible_train.ports import Job, Launcher, Resources

__all__ = ["LauncherContract"]

PROGRAM = '''
"""A program that does what its first argument says."""
import os, signal, sys, time
from pathlib import Path

what, *rest = sys.argv[1:]
if what == "say":
    print("said", *rest, os.getcwd(), os.environ.get("LAUNCHED_AS"), flush=True)
elif what == "fail":
    sys.exit(int(rest[0]))
elif what == "hold":
    def ended(number, frame):
        Path(rest[0] + ".ended").touch()
        sys.exit(130)
    signal.signal(signal.SIGTERM, ended)
    Path(rest[0]).touch()
    while not Path(rest[0] + ".free").exists():
        time.sleep(0.02)
'''


class LauncherContract:
    """Inherit it and give ``launcher``. ``new_launcher`` makes a second one that sees the same jobs.

    ``missing`` is the id of a job that there never was; ``guard_s`` bounds waiting for one that ends by itself.
    """

    missing = "job_0"
    guard_s = 60.0

    @pytest.fixture
    def launcher(self) -> Launcher:
        """The launcher under test."""
        raise NotImplementedError

    @pytest.fixture
    def new_launcher(self) -> Callable[[], Launcher]:
        """Makes another one."""
        raise NotImplementedError

    @pytest.fixture
    def make_job(self, tmp_path: Path) -> Callable[..., Job]:
        """Makes jobs of a small program: ``make_job("say", "hello")``."""
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "launched_program.py").write_text(PROGRAM)

        def make(*arguments: str, **settings: Any) -> Job:
            return Job(
                name="contract",
                module="launched_program",
                arguments=arguments,
                env={"PYTHONPATH": f"{tmp_path / 'code'}", "LAUNCHED_AS": "a job"},
                folder=tmp_path,
                log=tmp_path / "job.log",
                **settings,
            )

        return make

    def test_it_fits_the_port(self, launcher: Launcher) -> None:
        assert isinstance(launcher, Launcher)

    def test_a_job_runs_where_and_with_what_it_was_given_and_what_it_says_is_kept(
        self,
        launcher: Launcher,
        new_launcher: Callable[[], Launcher],
        make_job: Callable[..., Job],
        tmp_path: Path,
    ) -> None:
        job_id = launcher.submit(make_job("say", "one two", "$HOME"))
        status = launcher.wait(job_id, self.guard_s)
        assert (status.state, status.over) == ("succeeded", True)
        assert f"said one two $HOME {tmp_path} a job" in launcher.logs(job_id)
        other = new_launcher()
        assert other.status(job_id).state == "succeeded"
        assert "said one two" in other.logs(job_id)

    def test_a_job_that_fails_is_told_from_one_that_does_not(
        self, launcher: Launcher, make_job: Callable[..., Job]
    ) -> None:
        status = launcher.wait(launcher.submit(make_job("fail", "7")), self.guard_s)
        assert status.state == "failed"
        assert status.exit_code in (7, None)

    def test_a_job_is_cancelled_from_another_process_and_may_end_by_itself(
        self,
        launcher: Launcher,
        new_launcher: Callable[[], Launcher],
        make_job: Callable[..., Job],
        tmp_path: Path,
    ) -> None:
        flag = tmp_path / "begun"
        job_id = launcher.submit(make_job("hold", str(flag)))
        while not flag.exists():
            assert not launcher.wait(job_id, 0.1).over, launcher.logs(job_id)
        assert launcher.status(job_id).state == "running"
        new_launcher().cancel(job_id)
        status = launcher.wait(job_id, self.guard_s)
        assert status.state == "cancelled"
        assert Path(f"{flag}.ended").exists(), "the program heard no SIGTERM"
        launcher.cancel(job_id)
        assert launcher.status(job_id).state == "cancelled"

    def test_a_job_there_never_was_is_not_found(self, launcher: Launcher) -> None:
        for ask in (launcher.status, launcher.logs, launcher.cancel, launcher.wait):
            with pytest.raises(NotFoundError, match="job"):
                ask(self.missing)

    def test_closing_lets_jobs_go_on(
        self, launcher: Launcher, make_job: Callable[..., Job], tmp_path: Path
    ) -> None:
        flag = tmp_path / "begun"
        job_id = launcher.submit(make_job("hold", str(flag)))
        asyncio.run(launcher.close())
        asyncio.run(launcher.close())
        Path(f"{flag}.free").touch()
        assert launcher.wait(job_id, self.guard_s).state == "succeeded"

    @pytest.mark.parametrize("wrong", [{"processes": 0}, {"nodes": 0}, {"memory_gib": 0.0}, {"gpus": -1}])
    def test_resources_below_their_least_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Resources(**wrong)
