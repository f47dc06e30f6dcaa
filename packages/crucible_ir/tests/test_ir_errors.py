"""The tree of errors."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest

from crucible_ir import (
    AdapterError,
    CancelledRun,
    ConfigError,
    ConflictError,
    CrucibleError,
    DataError,
    ExitCode,
    IntegrityError,
    NotFoundError,
    Problem,
    ServiceError,
    StorageError,
    TrainError,
    nearest,
)

README = Path(__file__).parents[1] / "README.md"

KINDS = [
    AdapterError,
    CancelledRun,
    ConfigError,
    ConflictError,
    DataError,
    IntegrityError,
    NotFoundError,
    ServiceError,
    StorageError,
    TrainError,
]


@pytest.mark.parametrize("kind", [CrucibleError, *KINDS])
def test_every_error_says_where_what_and_remedy_on_one_line(kind: type[CrucibleError]) -> None:
    error = kind(what="the file is empty", where="train.jsonl", remedy="give at least one row")
    assert str(error) == "train.jsonl: the file is empty; give at least one row"
    assert isinstance(error, CrucibleError)


@pytest.mark.parametrize("kind", [CrucibleError, *KINDS])
def test_where_and_remedy_may_be_left_out(kind: type[CrucibleError]) -> None:
    assert str(kind(what="it broke")) == "it broke"


def test_a_config_error_with_several_problems_lists_them_all() -> None:
    problems = [Problem(path="a", message="missing"), Problem(path="b", message="wrong", remedy="give 2")]
    error = ConfigError(problems=problems)
    assert str(error) == "2 problems:\n  1. a: missing\n  2. b: wrong; give 2"
    assert (error.what, error.where, error.remedy) == ("missing", "a", "")


def test_a_config_error_with_one_problem_is_one_line() -> None:
    assert str(ConfigError(problems=[Problem(path="a.b", message="missing")])) == "a.b: missing"
    assert ConfigError(what="wrong", where="x").problems == (Problem(path="x", message="wrong"),)


def test_every_kind_of_error_has_an_exit_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert set(ExitCode) - set(codes) == {ExitCode.OK, ExitCode.FAILED, ExitCode.WAITING_APPROVAL}
    assert CrucibleError.exit_code is ExitCode.FAILED


def test_the_readme_documents_every_exit_code() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README.read_text(), re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


ALL = [
    *(kind(what="w", where="x", remedy="r") for kind in [CrucibleError, *KINDS]),
    ConfigError(problems=[Problem(path="a", message="m"), Problem(path="b", message="n", remedy="r")]),
    ServiceError(what="busy", retryable=True, retry_after_s=2.5),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copy_and_pickle_with_all_it_carries(error: CrucibleError, again: object) -> None:
    error.add_note("seen in a worker")
    other = again(error)  # type: ignore[operator]
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.__dict__ == error.__dict__
    assert other.args == error.args


def test_a_service_error_says_whether_and_when_to_try_again() -> None:
    error = ServiceError(what="busy", retryable=True, retry_after_s=2.5)
    assert (error.retryable, error.retry_after_s) == (True, 2.5)
    assert ServiceError(what="gone").retryable is False
    assert ServiceError.retryable is False


def test_the_nearest_name_is_close_or_none() -> None:
    assert nearest("learning_rat", ["learning_rate", "seed"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "seed"]) is None
    assert nearest("x", []) is None
