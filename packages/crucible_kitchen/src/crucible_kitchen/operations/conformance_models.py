"""Inputs and outputs of the conformance suite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crucible_ir import Contract

__all__ = ["CheckItem", "CheckList", "CheckOutcome", "CheckTarget", "ConformanceReport", "ListChecks"]


class ListChecks(Contract):
    """Which checks to list: ids or families; all without names."""

    only: tuple[str, ...] = ()


class CheckItem(Contract):
    """One check of the suite."""

    id: str
    family: str
    title: str
    tolerance: str
    builds_on: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """What the backend has to promise."""


class CheckList(Contract):
    """Checks in the order in which they run."""

    checks: tuple[CheckItem, ...]


class CheckTarget(Contract):
    """What to hold the suite against, and how."""

    target: str = Field(min_length=1)
    """Address of a Tinker-compatible server (``http…``), built-in manifest, or manifest file."""
    model: str | None = None
    """Base model; may be left out where a server offers one alone."""
    only: tuple[str, ...] = ()
    """Checks or families; all without names."""
    rank: int = Field(default=8, ge=1)
    """Rank of the adapters that are trained."""
    seed: int = Field(default=7, ge=0)
    tolerance: float = Field(default=1e-3, gt=0)
    """Nats by which two log-probabilities may differ that should be the same."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest that one check may take."""
    api_key_env: str = Field(default="TINKER_API_KEY", min_length=1)
    """Variable that holds the key of a server that is given by its address."""


class CheckOutcome(Contract):
    """What became of one check."""

    id: str
    family: str
    title: str
    status: Literal["passed", "failed", "not_run"]
    tolerance: str
    found: str = ""
    expected: str = ""
    """What has to be, where something else was found."""
    diagnosis: str = ""
    """What the backend probably does instead."""
    reason: str = ""
    """Why the check was not run."""


class ConformanceReport(Contract):
    """What the suite found."""

    target: str
    backend: str
    model: str
    ok: bool
    """Whether no check failed."""
    passed: int
    failed: int
    not_run: int
    checks: tuple[CheckOutcome, ...]
