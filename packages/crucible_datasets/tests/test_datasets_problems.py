"""Problem schemas: rows of the real datasets' shapes, the answer each gives, and what is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets import LocalDatasetStore, MemoryDataset, detect_schema
from crucible_datasets.mapping.problems import answer_after_hashes, answer_in_box
from crucible_ir import DataError, DatasetRef, DatasetSnapshot


def load(rows: list[dict[str, Any]], **mapping: Any) -> DatasetSnapshot:
    store = LocalDatasetStore(memory=[MemoryDataset("rows", rows)])
    return store.load(DatasetRef(id="rows", source="memory", mapping=mapping))


DEEPMATH = {
    "question": "Evaluate the limit.",
    "final_answer": "0",
    "difficulty": 4.5,
    "topic": "Mathematics -> Precalculus -> Limits",
    "r1_solution_1": "Okay, so I have this limit. \\boxed{1}",
    "r1_solution_2": "The limit is \\boxed{0}",
    "r1_solution_3": "It is 0.",
}
POLARIS = {"problem": "What is $2^{10}$?", "answer": "1024", "difficulty": "3/8"}
HENDRYCKS = {
    "problem": "What is $\\sqrt{9}$?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": "First \\boxed{2}, no: $\\boxed{\\frac{6}{2}}$.",
}
MATH_500 = HENDRYCKS | {"answer": "\\frac{6}{2}", "subject": "Algebra", "unique_id": "test/algebra/1.json"}
GSM8K = {
    "question": "How many clips?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips.\nThat is 1,024 in all.\n#### 1,024",
}


@pytest.mark.parametrize(
    ("schema", "row", "answer"),
    [
        ("problem", DEEPMATH, "0"),
        ("problem", POLARIS, "1024"),
        ("problem_boxed", HENDRYCKS, "\\frac{6}{2}"),
        ("problem_boxed", MATH_500, "\\frac{6}{2}"),
        ("problem_hashes", GSM8K, "1024"),
    ],
)
def test_each_dataset_gives_a_problem_and_its_answer(schema: str, row: dict[str, Any], answer: str) -> None:
    snapshot = load([row], schema=schema)
    asked = row.get("problem", row.get("question"))
    assert list(snapshot.rows) == [{"problem": asked, "answer": answer}]
    assert snapshot.drops == ()


@pytest.mark.parametrize(
    ("schema", "row", "reason"),
    [
        ("problem", {"problem": "a", "answer": " "}, "answer is empty"),
        ("problem", {"problem": "a", "answer": None}, "answer is missing"),
        ("problem", {"problem": "", "answer": "1"}, "problem is empty"),
        ("problem", {"problem": "a", "answer": ["1"]}, "answer is no text"),
        ("problem", {"problem": "a", "answer": True}, "answer is no text"),
        ("problem_boxed", {"problem": "a", "solution": "It is 3."}, "no boxed answer in the solution"),
        ("problem_boxed", {"problem": "a", "solution": "\\boxed{ }"}, "no boxed answer in the solution"),
        ("problem_hashes", {"problem": "a", "answer": "It is 3."}, "no answer after ####"),
        ("problem_hashes", {"problem": "a", "answer": "It is 3.\n####"}, "no answer after ####"),
    ],
)
def test_rows_without_an_answer_are_dropped_and_counted(
    schema: str, row: dict[str, Any], reason: str
) -> None:
    answer = "#### 2" if schema == "problem_hashes" else "2"
    whole = {"problem": "b", "answer": answer, "solution": "\\boxed{2}"}
    snapshot = load([whole, row, row], schema=schema)
    assert len(snapshot.rows) == 1
    (drop,) = snapshot.drops
    assert (drop.reason, drop.count, drop.first) == (reason, 2, "rows[train], row 2")
    with pytest.raises(DataError, match=reason):
        load([whole, row], schema=schema, strict=True)


def test_a_worked_solution_is_not_taken_for_its_answer() -> None:
    with pytest.raises(DataError, match="the schema problem_hashes takes that"):
        load([GSM8K], schema="problem")


def test_whole_numbers_are_answers_too() -> None:
    assert load([{"problem": "a", "answer": 7}], schema="problem").rows[0]["answer"] == "7"


def test_named_columns_go_before_usual_ones() -> None:
    mapping = {"schema": "problem", "fields": {"answer": "r1_solution_3"}, "keep": ["topic"]}
    row = load([DEEPMATH], **mapping).rows[0]
    assert (row["answer"], row["topic"]) == ("It is 0.", DEEPMATH["topic"])


def test_problem_schemas_are_never_guessed() -> None:
    assert detect_schema([GSM8K]).schema == "question_answer"
    with pytest.raises(DataError, match="no known schema"):
        detect_schema([DEEPMATH])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\left\\{1, 2\\right.}", "\\left\\{1, 2\\right."),
        ("} \\boxed{4}", "4"),
        ("\\boxed{never closed", None),
        ("\\boxed 5 and more", "5"),
        ("\\boxed{6} \\boxed 5", "6"),
        ("\\fbox{7}", None),
        ("", None),
    ],
)
def test_the_last_box_holds_the_answer(text: str, answer: str | None) -> None:
    assert answer_in_box(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n#### 12,345 ", "12345"),
        ("#### 1\n#### 2", "2"),
        ("####: 3", "3"),
        ("so #### 1,000 is it", "1,000 is it"),
        ("none", None),
    ],
)
def test_the_last_line_of_hashes_holds_the_answer(text: str, answer: str | None) -> None:
    assert answer_after_hashes(text) == answer


@given(st.text(alphabet="\\boxed{} #1,\n:", max_size=40))
def test_no_text_breaks_the_extraction(text: str) -> None:
    for found in (answer_in_box(text), answer_after_hashes(text)):
        assert found is None or found.replace(",", "") in text.replace(",", "")


@pytest.mark.real
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_row_of_gsm8k_has_a_number_for_an_answer(shared_data: Path, split: str, rows: int) -> None:
    path = str(shared_data / "datasets/gsm8k")
    mapping = {"schema": "problem_hashes"}
    snapshot = LocalDatasetStore().load(DatasetRef(id=path, split=split, mapping=mapping))
    assert len(snapshot.rows) == rows
    assert snapshot.drops == ()
    odd = {row["answer"] for row in snapshot.rows if re.fullmatch(r"-?\d+(\.\d+)?", row["answer"]) is None}
    assert odd == set()


@pytest.mark.real
def test_the_box_of_every_math_500_solution_is_its_recorded_answer(shared_data: Path) -> None:
    path = str(shared_data / "datasets/math500")
    rows = LocalDatasetStore().load(DatasetRef(id=path, split="test")).rows
    boxed = (
        LocalDatasetStore().load(DatasetRef(id=path, split="test", mapping={"schema": "problem_boxed"})).rows
    )
    assert len(boxed) == len(rows) == 500
    different = [
        (row["answer"], found["answer"])
        for row, found in zip(rows, boxed, strict=True)
        if row["answer"] != found["answer"]
    ]
    assert different == []
