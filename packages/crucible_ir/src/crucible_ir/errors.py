"""The one tree of errors: every message says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum, unique
from typing import Any

__all__ = [
    "AdapterError",
    "CancelledRun",
    "ConfigError",
    "ConflictError",
    "CrucibleError",
    "DataError",
    "ExitCode",
    "IntegrityError",
    "NotFoundError",
    "Problem",
    "ProcessLost",
    "ServiceError",
    "StorageError",
    "TrainError",
    "error_class",
    "nearest",
]


@unique
class ExitCode(IntEnum):
    """What the ``crucible`` command returns to the shell; each number means one thing."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DATA = 3
    ADAPTER = 4
    SERVICE = 5
    STORAGE = 6
    CONFLICT = 7
    NOT_FOUND = 8
    INTEGRITY = 9
    WAITING_APPROVAL = 10
    TRAIN = 11
    INTERRUPTED = 130


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None when nothing is close."""
    found = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: a dotted path, what is wrong there, and the remedy."""

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        """``path: message; remedy`` on one line."""
        head = f"{self.path}: {self.message}" if self.path else self.message
        return f"{head}; {self.remedy}" if self.remedy else head


class CrucibleError(Exception):
    """Root of the tree: ``where: what; remedy``. ``exit_code`` is what the command line returns for it.

    Errors copy and pickle with everything they carry, so that they cross process borders.
    """

    exit_code: ExitCode = ExitCode.FAILED
    retryable: bool = False

    def __init__(self, *, what: str, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the class, its arguments and its attributes; the cause and traceback stay behind."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        """``where: what; remedy`` on one line."""
        return str(Problem(path=self.where, message=self.what, remedy=self.remedy))


def _rebuild(kind: type[CrucibleError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CrucibleError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigError(CrucibleError):
    """A setting is wrong. Carries every problem found, not only the first."""

    exit_code = ExitCode.USAGE

    def __init__(
        self, *, what: str = "", where: str = "", remedy: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems) or (
            Problem(path=where, message=what, remedy=remedy),
        )
        first = self.problems[0]
        super().__init__(what=what or first.message, where=where or first.path, remedy=remedy or first.remedy)

    def __str__(self) -> str:
        """One line for one problem; a numbered list for several."""
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"{len(self.problems)} problems:"]
        lines += [f"  {n}. {problem}" for n, problem in enumerate(self.problems, start=1)]
        return "\n".join(lines)


class AdapterError(CrucibleError):
    """An adapter is unknown, ambiguous, not installed, or does not fit its port."""

    exit_code = ExitCode.ADAPTER


class DataError(CrucibleError):
    """Data cannot be read or do not have the shape that was asked for."""

    exit_code = ExitCode.DATA


class TrainError(CrucibleError):
    """Training cannot go on (a loss that is not finite, a model that does not fit the request)."""

    exit_code = ExitCode.TRAIN


class StorageError(CrucibleError):
    """Nothing more can be written (full or read-only disk); what was complete before is intact."""

    exit_code = ExitCode.STORAGE


class IntegrityError(CrucibleError):
    """Stored bytes are not those that were written."""

    exit_code = ExitCode.INTEGRITY


class ConflictError(CrucibleError):
    """Somebody else holds the thing, or it already exists with other content."""

    exit_code = ExitCode.CONFLICT


class NotFoundError(CrucibleError):
    """No run, model, checkpoint, dataset or file of that name."""

    exit_code = ExitCode.NOT_FOUND


class CancelledRun(CrucibleError):
    """The run was asked to stop and stopped."""

    exit_code = ExitCode.INTERRUPTED


class ProcessLost(CrucibleError):
    """A process that takes part in the run is gone; the run was interrupted and can be resumed."""

    exit_code = ExitCode.INTERRUPTED


class ServiceError(CrucibleError):
    """A service failed; ``retryable`` says whether the same call may go through later."""

    exit_code = ExitCode.SERVICE

    def __init__(
        self,
        *,
        what: str,
        where: str = "",
        remedy: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what=what, where=where, remedy=remedy)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


def error_class(name: str) -> type[CrucibleError]:
    """The class of this tree called ``name``, for an error that another process tells of; else its root."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, CrucibleError) else CrucibleError
