"""How far a run is, as lines and as a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.cli.progress import (
    PLAIN_EVERY_S,
    BarProgress,
    LineProgress,
    Rate,
    duration,
    facts_of,
    progress_for,
)
from crucible_kitchen.cli.show import sparkline


class Clock:
    """Says the time it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def row(step: int, tokens: float = 0.0, **metrics: float) -> Mapping[str, Any]:
    held: dict[str, float] = {"num_tokens": 10.0, "tokens/cumulative/trained": tokens, **metrics}
    return {"step": step, "metrics": held}


# --- figures ---------------------------------------------------------------------------------------------------


def test_the_first_row_only_starts_the_clock(clock: Clock) -> None:
    rate = Rate(clock)
    rate.update(0, 10, 100.0)
    assert (rate.tokens_per_s, rate.seconds_left) == (None, None)


def test_the_rate_counts_from_the_first_row_on(clock: Clock) -> None:
    rate = Rate(clock)
    rate.update(0, 10, 100.0)
    clock.now = 4.0
    rate.update(2, 10, 300.0)
    assert rate.tokens_per_s == 50.0
    assert rate.seconds_left == 7 * 2.0
    clock.now = 18.0
    rate.update(9, 10, 1000.0)
    assert rate.seconds_left == 0


def test_without_a_total_nobody_knows_how_long(clock: Clock) -> None:
    rate = Rate(clock)
    rate.update(0, None, 0.0)
    clock.now = 1.0
    rate.update(1, None, 5.0)
    assert (rate.tokens_per_s, rate.seconds_left) == (5.0, None)


def test_a_clock_that_stands_still_gives_no_rate(clock: Clock) -> None:
    rate = Rate(clock)
    rate.update(3, 10, 0.0)
    rate.update(4, 10, 50.0)
    assert rate.tokens_per_s is None
    clock.now = 1.0
    rate.update(3, 10, 50.0)
    assert rate.tokens_per_s is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (37230, "10:20:30"),
    ],
)
def test_a_duration_reads_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_figures_people_watch() -> None:
    assert facts_of({"train_mean_nll": 1.23456, "test/nll": 2.0, "learning_rate": 3e-4, "x": 1.0}) == (
        "loss 1.235  held-out 2  lr 0.0003"
    )
    assert facts_of({}) == ""


# --- lines -----------------------------------------------------------------------------------------------------


def said(progress: LineProgress, capsys: pytest.CaptureFixture[str], what: str, data: Any) -> str:
    progress(what, data)
    return capsys.readouterr().err


def test_lines_say_stages_and_now_and_then_a_step(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress(clock) as progress:
        assert said(progress, capsys, "stage.started", {"label": "load_dataset"}) == "load_dataset …\n"
        assert said(progress, capsys, "run.progress", {"total_steps": 4}) == ""
        assert said(progress, capsys, "metrics", row(0, train_mean_nll=2.0)) == "step 1/4  loss 2\n"
        clock.now = 2.0
        assert said(progress, capsys, "metrics", row(1, 20.0, train_mean_nll=1.5)) == ""
        clock.now = PLAIN_EVERY_S
        assert said(progress, capsys, "metrics", row(2, 5000.0, train_mean_nll=1.25)) == (
            "step 3/4  loss 1.25  1,000 tokens/s  0:02 left\n"
        )
        clock.now = PLAIN_EVERY_S + 0.1
        assert said(progress, capsys, "metrics", row(3, 5100.0, train_mean_nll=1.0)) == (
            "step 4/4  loss 1  1,000 tokens/s\n"
        )


def test_a_row_of_evaluation_alone_is_said_at_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(clock)
    said(progress, capsys, "metrics", row(0))
    assert said(progress, capsys, "metrics", {"step": 4, "metrics": {"test/nll": 1.5}}) == "held-out 1.5\n"


def test_lines_pass_over_what_they_do_not_know(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(LineProgress(clock), capsys, "rendering", {"done": 1, "of": 2}) == ""
    assert said(LineProgress(clock), capsys, "metrics", row(0)).startswith("step 1/?")


# --- the bar ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[BarProgress]:
    monkeypatch.setenv("COLUMNS", "160")
    with BarProgress(clock) as progress:
        yield progress


def task_of(bar: BarProgress) -> Any:
    return bar._bar.tasks[0]


def test_the_bar_follows_the_run(bar: BarProgress, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar("stage.started", {"label": "init_session"})
    assert task_of(bar).description == "init session"
    bar("rendering", {"done": 200, "of": 400})
    assert task_of(bar).fields["facts"] == "rendering 200/400"
    bar("run.progress", {"total_steps": 4})
    assert (task_of(bar).total, task_of(bar).description) == (4, "training")
    bar("metrics", row(0, 10.0, train_mean_nll=2.0))
    clock.now = 2.0
    bar("metrics", row(1, 2010.0, train_mean_nll=1.5))
    assert task_of(bar).completed == 2
    assert task_of(bar).fields["facts"] == "loss 1.5  1,000 tokens/s  0:04 left"
    bar("evaluating", {"done": 64, "of": 128})
    assert task_of(bar).fields["facts"] == "evaluating 64/128"
    bar("metrics", {"step": 2, "metrics": {"test/nll": 1.0}})
    bar("something.else", {})
    assert task_of(bar).completed == 2


def test_the_bar_needs_no_total(bar: BarProgress) -> None:
    bar("metrics", row(0))
    assert task_of(bar).completed == 1


def test_a_terminal_gets_the_bar_a_pipe_gets_lines_and_quiet_gets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert progress_for(quiet=True) is None
    assert isinstance(progress_for(quiet=False), LineProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(progress_for(quiet=False), BarProgress)


# --- sparklines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([float("nan")], ""),
        ([1.0], "▁"),
        ([2.0, 2.0, 2.0], "▁▁▁"),
        ([0.0, 7.0], "▁█"),
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], "█▇▆▅▄▃▂▁"),
        ([0.0, float("inf"), 7.0], "▁█"),
    ],
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_a_long_series_is_averaged_into_its_cells() -> None:
    assert sparkline([0.0, 2.0, 6.0, 8.0], width=2) == "▁█"
    assert sparkline([0.0, 7.0, 7.0, 7.0, 0.0, 7.0], width=3) == "▁█▁"
    assert sparkline([float(n) for n in range(80)], width=8) == "▁▂▃▄▅▆▇█"


@given(st.integers(1, 300).flatmap(lambda n: st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)))
def test_a_sparkline_is_never_wider_than_it_may_be(values: list[float]) -> None:
    line = sparkline(values, width=20)
    assert len(line) == min(20, len(values))
    assert set(line) <= set("▁▂▃▄▅▆▇█")


# --- notes -----------------------------------------------------------------------------------------------------

LEFT_OUT = {
    "role": "train",
    "drops": [{"reason": "unknown role '[bold]wizard'", "count": 1, "first": "a.jsonl, line 8"}],
}
SAID = "note: left out 1 of the training rows: unknown role '[bold]wizard' (first at a.jsonl, line 8)"


def test_lines_say_which_rows_were_left_out(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress(clock)("dataset.loaded", LEFT_OUT)
    assert capsys.readouterr().err == SAID + "\n"


def test_lines_say_warnings_with_their_first_case(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(clock)
    progress(
        "log", {"level": "warning", "message": "2 rows left out", "role": "train", "first": "row 7: odd"}
    )
    progress("log", {"level": "info", "message": "nothing to see"})
    progress("log", {"level": "warning", "message": "slow"})
    said = capsys.readouterr().err.splitlines()
    assert said == ["note: training rows: 2 rows left out (first: row 7: odd)", "note: slow"]


def test_the_bar_says_them_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with BarProgress(clock) as bar:
        bar("dataset.loaded", LEFT_OUT)
    assert SAID in " ".join(capsys.readouterr().err.split())
