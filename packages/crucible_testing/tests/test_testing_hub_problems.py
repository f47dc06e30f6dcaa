"""The fixtures of problem and preference datasets have the columns and the layout that they stand for."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest

from crucible_testing.hub_problems import MATH_SUBJECTS, REPOSITORIES, gsm8k_rows, math_rows, repository_files

COLUMNS = {
    "openai/gsm8k": ["question", "answer"],
    "EleutherAI/hendrycks_math": ["problem", "level", "type", "solution"],
    "HuggingFaceH4/MATH-500": ["problem", "solution", "answer", "subject", "level", "unique_id"],
    "zwhe99/DeepMath-103K": [
        "question",
        "final_answer",
        "difficulty",
        "topic",
        "r1_solution_1",
        "r1_solution_2",
        "r1_solution_3",
    ],
    "POLARIS-Project/Polaris-Dataset-53K": ["problem", "answer", "difficulty"],
    "Anthropic/hh-rlhf": ["chosen", "rejected"],
    "nvidia/HelpSteer3": [
        "domain",
        "language",
        "context",
        "response1",
        "response2",
        "overall_preference",
        "individual_preference",
    ],
    "argilla/ultrafeedback-binarized-preferences": [
        "source",
        "instruction",
        "chosen_response",
        "rejected_response",
        "chosen_avg_rating",
        "rejected_avg_rating",
        "chosen_model",
    ],
}


def rows_of(name: str, body: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if name.endswith(".parquet"):
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(body)).to_pylist()
        return rows
    return [json.loads(line) for line in gzip.decompress(body).decode().splitlines()]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_file_has_the_columns_and_says_that_it_is_a_fixture(repository: str) -> None:
    files = repository_files(repository)
    assert b"FIXTURE" in files.pop("README.md")
    assert files
    for name, body in files.items():
        rows = rows_of(name, body)
        assert {tuple(row) for row in rows} == {tuple(COLUMNS[repository])}
    again = repository_files(repository)
    assert {name: again[name] for name in files} == files


def test_no_problem_stands_twice_and_math_has_seven_subjects() -> None:
    problems = [
        row["problem"]
        for subject in MATH_SUBJECTS
        for split in ("train", "test")
        for row in math_rows(subject, split)
    ]
    assert len(set(problems)) == len(problems) == 7 * 2 * 4
    questions = [row["question"] for split in ("train", "test") for row in gsm8k_rows(split)]
    assert len(set(questions)) == len(questions)


def test_a_repository_without_fixture_is_none() -> None:
    with pytest.raises(KeyError):
        repository_files("org/other")
