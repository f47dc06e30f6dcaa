"""All checks in order, and how they are run: one after the other, each within its time, none skipped in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import anyio

from crucible_ir import ConfigError, CrucibleError, Problem, nearest
from crucible_kitchen.conformance import (
    adapters,
    gradients,
    losses,
    models,
    optimizers,
    policies,
    refusals,
    sampling,
    scores,
    states,
)
from crucible_kitchen.conformance.bench import Bench
from crucible_kitchen.conformance.check import Check, Mismatch, NotRun
from crucible_train.ports import BackendCapabilities

__all__ = ["CHECKS", "Result", "Status", "run_checks", "select"]

Status = Literal["passed", "failed", "not_run"]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.id: check
        for family in (
            *(sampling, scores, models, gradients, losses, policies),
            *(optimizers, adapters, states, refusals),
        )
        for check in family.CHECKS
    }
)
"""Every check by id, each behind those that it builds on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a check: ``found`` where it was done, ``reason`` where it was not."""

    check: Check
    status: Status
    found: str = ""
    expected: str = ""
    diagnosis: str = ""
    reason: str = ""


def select(only: Sequence[str] = ()) -> list[Check]:
    """Checks by id or family, in the order of the suite; all without names.

    Raises:
        ConfigError: names that are neither; all of them at once.
    """
    families = {check.family for check in CHECKS.values()}
    known = [*CHECKS, *sorted(families)]
    problems = []
    for name in only:
        if name not in known:
            near = nearest(name, known)
            remedy = f"did you mean {near!r}?" if near else f"families: {', '.join(sorted(families))}"
            problems.append(Problem(path="only", message=f"there is no check {name!r}", remedy=remedy))
    if problems:
        raise ConfigError(problems=problems)
    return [check for check in CHECKS.values() if not only or {check.id, check.family} & set(only)]


async def run_checks(
    bench: Bench, checks: Sequence[Check], *, timeout_s: float, told: Callable[[Result], None]
) -> list[Result]:
    """Do the checks in order; ``told`` hears of each result as it comes.

    A check is not run when the backend does not promise what it needs, or one that it builds on has failed.
    """
    results: list[Result] = []
    failed: set[str] = set()
    for check in checks:
        reason = _lack(check, bench.capabilities) or _broken_ground(check, failed)
        if reason is not None:
            result = Result(check=check, status="not_run", reason=reason)
            if any(base in failed for base in check.builds_on):
                failed.add(check.id)
        else:
            result = await _done(check, bench, timeout_s)
        if result.status == "failed":
            failed.add(check.id)
        results.append(result)
        told(result)
    return results


def _lack(check: Check, capabilities: BackendCapabilities) -> str | None:
    """What the check needs and the backend does not promise."""
    for need in check.needs:
        loss = need.removeprefix("loss:")
        has = loss in capabilities.losses if loss != need else bool(getattr(capabilities, need))
        if not has:
            return f"the backend does not promise {loss}"
    return None


def _broken_ground(check: Check, failed: set[str]) -> str | None:
    broken = [base for base in check.builds_on if base in failed]
    return f"builds on {', '.join(broken)}, which did not pass" if broken else None


async def _done(check: Check, bench: Bench, timeout_s: float) -> Result:
    try:
        with anyio.fail_after(timeout_s):
            found = await check.run(bench)
        return Result(check=check, status="passed", found=found)
    except NotRun as skipped:
        return Result(check=check, status="not_run", reason=skipped.reason)
    except Mismatch as wrong:
        return _failed(check, wrong.found, wrong.expected, wrong.diagnosis)
    except TimeoutError:
        return _failed(
            check,
            f"no answer within {timeout_s:g} s",
            "an answer",
            "a request is lost, refused again and again, or slower than --timeout allows",
        )
    except CrucibleError as error:
        return _failed(check, str(error), "calls that succeed", "the backend failed within the check")
    except Exception as error:  # noqa: BLE001 - an adapter may raise anything, and the other checks go on
        found = f"{type(error).__name__}: {error}"
        return _failed(check, found, "calls that succeed", "an error of the implementation comes through")
    finally:
        await _cleared(bench)


async def _cleared(bench: Bench) -> None:
    """Close what the check opened; an error in that is the next check's to find."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(30):
        try:
            await bench.clear()
        except Exception:  # noqa: BLE001 - closing must not hide what was found
            return


def _failed(check: Check, found: str, expected: str, diagnosis: str) -> Result:
    return Result(check=check, status="failed", found=found, expected=expected, diagnosis=diagnosis)
