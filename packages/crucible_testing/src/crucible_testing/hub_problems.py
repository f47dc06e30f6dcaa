"""Generated stand-ins for hub datasets of problems and of preferences: their real columns and layout, other rows.

FIXTURES, NOT THE DATA: every text here is made up by this module. Needs pyarrow to write Parquet.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_testing.hub_fixtures import parquet_bytes

__all__ = [
    "MATH_SUBJECTS",
    "REPOSITORIES",
    "deepmath_rows",
    "gsm8k_rows",
    "helpsteer3_rows",
    "hh_rlhf_rows",
    "math_rows",
    "packed",
    "repository_files",
    "ultrafeedback_rows",
]

Rows = list[dict[str, Any]]

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_PER_SUBJECT = 4


def _sums(purpose: str, count: int) -> list[tuple[int, int]]:
    rng = random.Random(f"problems:{purpose}")
    return [(rng.randint(1000, 9999), rng.randint(1, 99)) for _ in range(count)]


def gsm8k_rows(split: str = "train", *, count: int = 20) -> Rows:
    """Rows with the columns of openai/gsm8k: question, answer; the last one lacks its ``####``."""
    rows = [
        {
            "question": f"A bakery sells {x} loaves and then {y} more. How many? (fixture)",
            "answer": f"It sells {x} + {y} = <<{x}+{y}={x + y}>>{x + y} loaves.\n#### {x + y:,}",
        }
        for x, y in _sums(f"gsm8k:{split}", count)
    ]
    return [*rows[:-1], rows[-1] | {"answer": "Nobody counted."}]


def math_rows(subject: str, split: str) -> Rows:
    """4 rows with the columns of EleutherAI/hendrycks_math: problem, level, type, solution."""
    return [
        {
            "problem": f"What is ${x} - {y}$ in {subject}? (fixture)",
            "level": "Level 2",
            "type": subject.replace("_", " ").title(),
            "solution": f"We take {y} from {x}: $\\boxed{{{x - y}}}$.",
        }
        for x, y in _sums(f"math:{subject}:{split}", _PER_SUBJECT)
    ]


def _math_500_rows() -> Rows:
    """The first test problem of each subject, with the columns of HuggingFaceH4/MATH-500."""
    rows = []
    for subject in MATH_SUBJECTS:
        row = math_rows(subject, "test")[0]
        answer = row["solution"].split("{")[1].split("}")[0]
        rows.append(
            {
                "problem": row["problem"],
                "solution": row["solution"],
                "answer": answer,
                "subject": row["type"],
                "level": 2,
                "unique_id": f"test/{subject}/0.json",
            }
        )
    return rows


def deepmath_rows(*, count: int = 20) -> Rows:
    """Rows with the columns of zwhe99/DeepMath-103K; some lack an answer."""
    return [
        {
            "question": f"Evaluate ${x} \\cdot {y}$. (fixture)",
            "final_answer": str(x * y) if y % 5 else "",
            "difficulty": 4.5,
            "topic": "Mathematics -> Algebra",
            **{f"r1_solution_{n}": f"Attempt {n}: \\boxed{{{x * y}}}" for n in (1, 2, 3)},
        }
        for x, y in _sums("deepmath", count)
    ]


def _polaris_rows() -> Rows:
    return [
        {"problem": f"Find ${x}^2 - {y}$. (fixture)", "answer": str(x * x - y), "difficulty": "3/8"}
        for x, y in _sums("polaris", 20)
    ]


def _said(rng: random.Random) -> str:
    return f"{rng.choice(('Yes', 'No', 'Perhaps'))}, {rng.randint(1, 999)} times."


def hh_rlhf_rows(split: str = "train", *, count: int = 40) -> Rows:
    """Rows with the columns of Anthropic/hh-rlhf: chosen, rejected, whole conversations as text."""
    rng = random.Random(f"hh:{split}")
    rows = []
    for number in range(count):
        head = f"\n\nHuman: Fixture {number}, is it so?\n\nAssistant: {_said(rng)}\n\nHuman: And then?\n\nAssistant: "
        rows.append({"chosen": f"{head}{_said(rng)} A", "rejected": f"{head}{_said(rng)} B"})
    return rows


def helpsteer3_rows(split: str = "train") -> Rows:
    """40 rows with the columns of nvidia/HelpSteer3, configuration preference; every seventh is a tie."""
    rng = random.Random(f"helpsteer3:{split}")
    return [
        {
            "domain": "general",
            "language": "english",
            "context": [{"role": "user", "content": f"Fixture {number}, is it so?"}],
            "response1": f"{_said(rng)} one",
            "response2": f"{_said(rng)} two",
            "overall_preference": number % 7 - 3,
            "individual_preference": [
                {"score": number % 7 - 3, "reasoning": "fixture", "feedback1": "a", "feedback2": "b"}
            ],
        }
        for number in range(40)
    ]


def ultrafeedback_rows() -> Rows:
    """1060 rows with the columns of argilla/ultrafeedback-binarized-preferences."""
    rng = random.Random("ultrafeedback")
    return [
        {
            "source": "fixture",
            "instruction": f"Fixture {number}, is it so?",
            "chosen_response": f"{_said(rng)} good",
            "rejected_response": f"{_said(rng)} bad",
            "chosen_avg_rating": 4.5,
            "rejected_avg_rating": 2.0,
            "chosen_model": "fixture",
        }
        for number in range(1060)
    ]


def _lines(rows: Rows) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def _card(files: Mapping[str, Mapping[str, str]]) -> bytes:
    """The front matter that names the files of each split of each configuration."""
    text = "---\nconfigs:\n"
    for config, splits in files.items():
        text += f"- config_name: {config}\n  data_files:\n"
        text += "".join(f"  - split: {split}\n    path: {path}\n" for split, path in splits.items())
    return f"{text}---\n\n# FIXTURE: generated rows with the schema of the dataset of this name\n".encode()


def packed(configs: Mapping[str, Mapping[str, Rows]], *, suffix: str = "parquet") -> dict[str, bytes]:
    """Files of a repository with these rows: configuration → split → rows; ``suffix`` parquet or jsonl.gz."""
    pack = parquet_bytes if suffix == "parquet" else _lines
    names = {
        config: {split: f"{config}/{split}.{suffix}" for split in splits}
        for config, splits in configs.items()
    }
    files = {
        names[config][split]: pack(rows)
        for config, splits in configs.items()
        for split, rows in splits.items()
    }
    return {"README.md": _card(names), **files}


def repository_files(repository: str) -> dict[str, bytes]:
    """Files of the fixture repository of this name, one of ``REPOSITORIES``."""
    match repository:
        case "openai/gsm8k":
            main = {split: gsm8k_rows(split) for split in ("train", "test")}
            return packed({"main": main, "socratic": main})
        case "EleutherAI/hendrycks_math":
            return packed(
                {subject: {s: math_rows(subject, s) for s in ("train", "test")} for subject in MATH_SUBJECTS}
            )
        case "HuggingFaceH4/MATH-500":
            return packed({"default": {"test": _math_500_rows()}}, suffix="jsonl.gz")
        case "zwhe99/DeepMath-103K":
            return packed({"default": {"train": deepmath_rows()}})
        case "POLARIS-Project/Polaris-Dataset-53K":
            return packed({"default": {"train": _polaris_rows()}})
        case "Anthropic/hh-rlhf":
            splits = {split: hh_rlhf_rows(split) for split in ("train", "test")}
            return packed({"default": splits}, suffix="jsonl.gz")
        case "nvidia/HelpSteer3":
            splits = {split: helpsteer3_rows(split) for split in ("train", "validation")}
            return packed({"preference": splits, "edit": splits}, suffix="jsonl.gz")
        case "argilla/ultrafeedback-binarized-preferences":
            return packed({"default": {"train": ultrafeedback_rows()}})
    raise KeyError(repository)


REPOSITORIES: Sequence[str] = (
    "openai/gsm8k",
    "EleutherAI/hendrycks_math",
    "HuggingFaceH4/MATH-500",
    "zwhe99/DeepMath-103K",
    "POLARIS-Project/Polaris-Dataset-53K",
    "Anthropic/hh-rlhf",
    "nvidia/HelpSteer3",
    "argilla/ultrafeedback-binarized-preferences",
)
