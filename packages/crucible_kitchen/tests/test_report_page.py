"""Reports: the same facts as Markdown and as one page that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import DatasetRef, ExampleResult, Experiment, MetricRow, StageDef
from crucible_kitchen.reports.facts import (
    Gain,
    ReportFacts,
    gather,
    held_out_gain,
    held_out_gains,
    sample_pairs,
)
from crucible_kitchen.reports.markdown import gain_sentence, identity_rows, markdown, setting_rows
from crucible_kitchen.reports.page import curve, page

EVIL = '<script>alert("x")</script> | `y` &amp;'
VOID = {"meta", "br", "circle", "polyline"}


class Checked(HTMLParser):
    """Raises nothing, but keeps what is open, what was seen and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> Checked:
    parser = Checked()
    parser.feed(html)
    parser.close()
    assert parser.wrong == []
    assert parser.open == []
    return parser


def write_scores(
    run_dir: Path,
    step: int,
    scores: Sequence[float],
    first: int = 0,
    *,
    prefix: str = "nll",
    detail: dict[str, Any] | None = None,
) -> None:
    folder = run_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        ExampleResult(
            example_id=f"e{number}",
            metric=prefix,
            score=score,
            higher_is_better=prefix != "nll",
            detail=detail or {},
            seed=0,
            step=step,
            evaluator="evaluate_nll",
        )
        for number, score in enumerate(scores, start=first)
    ]
    text = "".join(record.model_dump_json() + "\n" for record in records)
    (folder / f"{prefix}_{step:06d}.jsonl").write_text(text)


def write_samples(run_dir: Path, step: int, answers: Sequence[str], prompt: str = "hello") -> None:
    folder = run_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "example_id": f"e{number}",
            "step": step,
            "prompt": [{"role": "system", "content": "be"}, {"role": "user", "content": prompt}],
            "reference": {"role": "assistant", "content": "wanted"},
            "answer": {"role": "assistant", "content": answer},
        }
        for number, answer in enumerate(answers)
    ]
    (folder / f"samples_{step:06d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def gain_of(run_dir: Path, before: Sequence[float], after: Sequence[float]) -> Gain:
    write_scores(run_dir, 0, before)
    write_scores(run_dir, 9, after)
    gain = held_out_gain(run_dir)
    assert gain is not None
    return gain


def facts_of(run_dir: Path, **changes: Any) -> ReportFacts:
    ref = DatasetRef(id="rows.jsonl", digest=f"sha256:{'a' * 64}", order_digest=f"sha256:{'b' * 64}", rows=3)
    rows = [
        MetricRow(step=n, metrics={"train_mean_nll": 3.0 - n, "learning_rate": 0.1, "other": 1.0})
        for n in range(3)
    ]
    settings: dict[str, Any] = {
        "experiment": Experiment(id="toy", recipe="sl_basic", pipeline=(StageDef(name="x"),), seed=4),
        "provenance": {
            "dataset": ref.model_dump(mode="json"),
            "model": {"id": "m", "digest": "sha256:m"},
            "tokenizer": {"digest": "sha256:t"},
            "renderer": {"name": "role_colon", "digest": "sha256:r"},
        },
        "rows": rows,
        "weights": {"path": "checkpoints/final", "digest": "sha256:w"},
    }
    return gather(run_dir, **(settings | changes))


# --- the gain --------------------------------------------------------------------------------------------------


def test_a_gain_is_before_minus_after_paired_by_example(tmp_path: Path) -> None:
    gain = gain_of(tmp_path, [3.0, 2.0, 4.0], [2.0, 1.5, 2.5])
    assert (gain.step_before, gain.step_after) == (0, 9)
    assert (gain.before, gain.after) == (3.0, 2.0)
    assert gain.difference.n == 3
    assert gain.difference.mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([2.0, 1.1, 3.2, 4.1], "better: the interval lies above zero"),
        ([4.0, 2.9, 5.2, 6.1], "worse: the interval lies below zero"),
        ([3.5, 1.5, 4.5, 4.5], "not enough evidence: the interval holds zero"),
        ([3.0, 2.0, 4.0, 5.0], "not enough evidence: the interval holds zero"),
    ],
)
def test_the_sentence_says_whether_it_counts(tmp_path: Path, after: list[float], verdict: str) -> None:
    sentence = gain_sentence(gain_of(tmp_path, [3.0, 2.0, 4.0, 5.0], after))
    assert sentence.endswith(verdict)
    assert "on 4 examples" in sentence
    assert "held-out loss 3.5000 →" in sentence


def test_first_and_last_of_many_evaluations_are_compared(tmp_path: Path) -> None:
    for step, score in ((0, 3.0), (5, 9.0), (100, 1.0)):
        write_scores(tmp_path, step, [score, score])
    gain = held_out_gain(tmp_path)
    assert gain is not None
    assert (gain.step_before, gain.step_after, gain.before, gain.after) == (0, 100, 3.0, 1.0)


def test_examples_that_only_one_side_has_or_that_have_no_loss_are_left_out(tmp_path: Path) -> None:
    write_scores(tmp_path, 0, [3.0, 3.0, float("nan"), 3.0])
    write_scores(tmp_path, 1, [1.0, 1.0, 1.0], first=1)
    gain = held_out_gain(tmp_path)
    assert gain is not None
    assert gain.difference.n == 2


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_model_that_lost_the_loss_of_an_example_is_not_compared(tmp_path: Path, lost: float) -> None:
    write_scores(tmp_path, 0, [3.0, 3.0, 3.0])
    write_scores(tmp_path, 1, [1.0, 1.0, lost])
    assert held_out_gain(tmp_path) is None


def test_one_evaluation_or_one_shared_example_is_no_comparison(tmp_path: Path) -> None:
    assert held_out_gain(tmp_path) is None
    write_scores(tmp_path, 0, [3.0, 3.0])
    assert held_out_gain(tmp_path) is None
    write_scores(tmp_path, 1, [3.0, 3.0], first=1)
    assert held_out_gain(tmp_path) is None


def test_every_measure_of_a_run_has_its_gain(tmp_path: Path) -> None:
    for prefix, values in (("reward", [[-0.1, 0.9], [1.0, 1.0]]), ("accuracy", [[0.0, 1.0], [1.0, 1.0]])):
        for step, scores in enumerate(values):
            write_scores(tmp_path, step, scores, prefix=prefix)
    gains = held_out_gains(tmp_path)
    assert [(gain.measure.prefix, gain.before, gain.after) for gain in gains] == [
        ("accuracy", 0.5, 1.0),
        ("reward", pytest.approx(0.4), 1.0),
    ]
    assert all(gain.difference.mean > 0 for gain in gains)
    text = markdown(facts_of(tmp_path))
    assert "held-out accuracy 0.5000 → 1.0000" in text
    assert "held-out reward 0.4000 → 1.0000" in text


def test_attempts_at_problems_are_shown_before_and_after(tmp_path: Path) -> None:
    for step, answer in enumerate(("6", "7")):
        detail = {"question": "What is 3 + 4?", "answer": answer, "reference_answer": "7"}
        write_scores(tmp_path, step, [float(step)], prefix="reward", detail=detail)
    (pair,) = sample_pairs(tmp_path)
    assert (pair.before, pair.after, pair.reference) == ("6", "7", "7")
    assert "What is 3 + 4?" in page(facts_of(tmp_path))


def test_an_answer_may_hold_any_separator_of_lines(tmp_path: Path) -> None:
    for step, answer in enumerate(("a\x85b", "c\u2028d")):
        detail = {"question": "What is 3 + 4?", "answer": answer}
        write_scores(tmp_path, step, [float(step)] * 2, prefix="reward", detail=detail)
    assert [(pair.before, pair.after) for pair in sample_pairs(tmp_path)] == [("a\x85b", "c\u2028d")] * 2
    (gain,) = held_out_gains(tmp_path)
    assert gain.difference.n == 2


# --- samples ---------------------------------------------------------------------------------------------------


def test_answers_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    assert sample_pairs(tmp_path) == []
    write_samples(tmp_path, 0, ["old"])
    (only,) = sample_pairs(tmp_path)
    assert (only.before, only.after, only.reference) == (None, "old", "wanted")
    write_samples(tmp_path, 8, ["new", "second"])
    first, second = sample_pairs(tmp_path)
    assert (first.before, first.after) == ("old", "new")
    assert (second.before, second.after) == (None, "second")


def test_an_answer_in_parts_is_shown_as_json(tmp_path: Path) -> None:
    write_samples(tmp_path, 0, ["old"])
    path = tmp_path / "results" / "samples_000000.jsonl"
    path.write_text(
        path.read_text().replace('"content": "old"', '"content": [{"type": "text", "text": "ä"}]')
    )
    (pair,) = sample_pairs(tmp_path)
    assert pair.after == '[{"type": "text", "text": "ä"}]'


# --- curves ----------------------------------------------------------------------------------------------------


def test_a_curve_goes_from_its_first_to_its_last_point() -> None:
    svg = curve([(0, 4.0), (5, 2.0), (10, 1.0)], label="loss")
    (points,) = re.findall(r'points="([^"]*)"', svg)
    pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
    assert pairs == [(64.0, 10.0), (258.0, pytest.approx(122.0, abs=1.0)), (452.0, 178.0)]
    assert svg.count("<circle") == 3
    assert ">4</text>" in svg
    assert ">step 0</text>" in svg
    checked(svg)


@pytest.mark.parametrize("points", [[(3, 1.5)], [(0, 2.0), (1, 2.0), (2, 2.0)]])
def test_one_point_and_a_constant_are_drawn_in_the_middle(points: list[tuple[int, float]]) -> None:
    svg = curve(points, label="loss")
    heights = {y for _, y in re.findall(r"([\d.]+),([\d.]+)", svg)}
    assert heights == {"94.0"}
    checked(svg)


def test_what_is_not_finite_is_left_out_of_a_curve() -> None:
    svg = curve([(0, float("nan")), (1, 1.0), (2, float("inf")), (3, 2.0)], label="loss")
    assert svg.count("<circle") == 2
    assert "nan" not in svg
    assert curve([(0, float("nan"))], label="loss") == ""
    assert curve([], label="loss") == ""


def test_a_long_curve_has_no_dots_and_a_label_is_escaped() -> None:
    svg = curve([(n, float(n)) for n in range(41)], label="<loss>")
    assert "<circle" not in svg
    assert "&lt;loss&gt;" in svg
    checked(svg)


def test_only_curves_worth_drawing_are_drawn(tmp_path: Path) -> None:
    assert list(facts_of(tmp_path).curves) == ["train_mean_nll", "learning_rate"]


# --- the page --------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_shows_everything(tmp_path: Path) -> None:
    run_dir = tmp_path / "run_1_00000000"
    gain_of(run_dir, [3.0, 2.0, 4.0], [2.0, 1.5, 2.5])
    write_samples(run_dir, 0, ["old"])
    write_samples(run_dir, 9, ["new"])
    html = page(facts_of(run_dir))
    parser = checked(html)
    text = " ".join(parser.text)
    assert html.startswith("<!doctype html>")
    assert parser.tags.count("svg") == 2
    for part in (
        "toy: run_1_00000000",
        "held-out loss 3.0000 → 2.0000",
        "old",
        "new",
        "wanted",
        "role_colon",
    ):
        assert part in text


def test_a_page_without_anything_is_well_formed_too(tmp_path: Path) -> None:
    parser = checked(page(facts_of(tmp_path, rows=[], provenance={}, weights=None)))
    assert "No held-out comparison." in " ".join(parser.text)
    assert "svg" not in parser.tags


def test_what_was_said_cannot_become_markup(tmp_path: Path) -> None:
    write_samples(tmp_path, 0, [EVIL], prompt=EVIL)
    experiment = Experiment(id=EVIL, pipeline=(StageDef(name="x"),))
    parser = checked(page(facts_of(tmp_path, experiment=experiment)))
    assert "script" not in parser.tags
    assert EVIL in "".join(parser.text)


def test_the_page_asks_nothing_of_any_network_and_runs_nothing(tmp_path: Path) -> None:
    write_samples(tmp_path, 0, ["see https://example.invalid/x"])
    html = page(facts_of(tmp_path))
    assert not re.search(r"""(src|href|xlink:href)\s*=|url\(|@import""", html)
    assert "<script" not in html
    assert re.findall(r"https?://\S+", html) == ["https://example.invalid/x</div>"]


# --- Markdown --------------------------------------------------------------------------------------------------


def test_identity_names_data_model_renderer_weights_and_seed(tmp_path: Path) -> None:
    rows = dict(identity_rows(facts_of(tmp_path / "run_1_00000000")))
    assert rows["run"] == "run_1_00000000"
    assert rows["dataset"] == "rows.jsonl [train], 3 rows"
    assert rows["dataset content"] == f"sha256:{'a' * 64}"
    assert rows["dataset order"] == f"sha256:{'b' * 64}"
    assert "dataset transform" not in rows
    assert rows["model"] == "m sha256:m"
    assert rows["tokenizer"] == "sha256:t"
    assert rows["renderer"] == "role_colon sha256:r"
    assert rows["weights"] == "checkpoints/final sha256:w"
    assert rows["seed"] == "4"
    assert rows["config"].startswith("sha256:")


def test_markdown_shows_the_last_metrics(tmp_path: Path) -> None:
    text = markdown(facts_of(tmp_path))
    assert "| `train_mean_nll` | 1 |" in text
    assert "No held-out comparison." in text
    assert "## Last metrics" not in markdown(facts_of(tmp_path, rows=[]))


def test_markdown_keeps_quoted_text_on_its_line_and_out_of_the_markup(tmp_path: Path) -> None:
    write_samples(tmp_path, 0, ["a\n\n# not a heading | <b>"], prompt=EVIL)
    text = markdown(facts_of(tmp_path))
    assert "<script" not in text
    assert "<b>" not in text
    assert "- after: a # not a heading \\| &lt;b>" in text
    assert not re.search(r"^# not", text, re.MULTILINE)


def test_a_name_with_a_bar_does_not_break_the_table(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, provenance={"model": {"id": "a|b", "digest": "d"}})
    (line,) = [line for line in markdown(facts).splitlines() if line.startswith("| model |")]
    assert len(re.split(r"(?<!\\)\|", line)) == 4


def test_a_name_cannot_become_markup_in_the_title(tmp_path: Path) -> None:
    experiment = Experiment(id=EVIL, pipeline=(StageDef(name="x"),))
    assert "<script" not in markdown(facts_of(tmp_path, experiment=experiment))


# --- notes and settings ----------------------------------------------------------------------------------------


def write_log(run_dir: Path, *events: tuple[str, dict[str, Any]]) -> None:
    lines = [json.dumps({"type": kind, "data": data}) + "\n" for kind, data in events]
    (run_dir / "events.jsonl").write_text("".join(lines))


def test_both_forms_say_what_was_left_out_and_what_was_warned_of_once(tmp_path: Path) -> None:
    drop = {"reason": EVIL, "count": 2, "first": "a.jsonl, line 6"}
    loaded = ("dataset.loaded", {"role": "train", "drops": [drop]})
    warning = ("log", {"level": "warning", "message": "3 examples teach nothing", "role": "held_out"})
    write_log(
        tmp_path, loaded, ("run.started", {}), warning, loaded, ("log", {"level": "info", "message": "x"})
    )
    facts = facts_of(tmp_path)
    assert facts.remarks == [
        f"left out 2 of the training rows: {EVIL} (first at a.jsonl, line 6)",
        "held-out rows: 3 examples teach nothing",
    ]
    found = checked(page(facts))
    assert "script" not in found.tags
    assert "held-out rows: 3 examples teach nothing" in found.text
    assert "- held-out rows: 3 examples teach nothing" in markdown(facts)


def test_a_run_with_nothing_to_note_has_no_notes(tmp_path: Path) -> None:
    write_log(tmp_path, ("dataset.loaded", {"role": "train", "drops": []}))
    facts = facts_of(tmp_path)
    assert "Notes" not in page(facts)
    assert "Notes" not in markdown(facts)


def test_settings_stand_with_dotted_names_and_without_those_that_are_not_set(tmp_path: Path) -> None:
    settings = {"batch_size": 8, "data": {"path": EVIL, "limit": None}, "tags": []}
    experiment = Experiment(id="toy", pipeline=(StageDef(name="x"),), settings=settings)
    facts = facts_of(tmp_path, experiment=experiment)
    assert setting_rows(facts) == [("batch_size", "8"), ("data.path", EVIL)]
    assert "| `batch_size` | `8` |" in markdown(facts)
    assert EVIL in checked(page(facts)).text
