"""Secrets that may be near a run: found so that they can be kept out of everything it writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from crucible_ir.errors import ConfigError, CrucibleError, Problem
from crucible_ir.redaction import Redactor, is_secret_name, secrets_in
from crucible_kitchen.manifests.manifest import Manifest, is_reference

__all__ = ["credential_names", "redactor_for", "scrub"]

_SHORTEST = 6
"""Shorter values are no secrets; hiding them would blacken ordinary text."""


def credential_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the variables of ``environ`` that hold a credential, sorted.

    A variable that holds the path of something that exists (``PWD``, a credentials file, a socket) holds none.
    """
    return tuple(
        sorted(
            name for name, value in environ.items() if value and is_secret_name(name) and not _is_path(value)
        )
    )


def _is_path(value: str) -> bool:
    try:
        return value.startswith(("/", "~")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def redactor_for(environ: Mapping[str, str], manifest: Manifest | None = None) -> Redactor:
    """What takes secrets out of events, logs, reports and errors.

    It knows the values of variables named like credentials (``HF_TOKEN``, ``TINKER_API_KEY``, ``*_API_KEY``,
    ``*_TOKEN``, ``*_SECRET`` …) and of every variable that ``manifest`` refers to.
    """
    secrets = set(secrets_in({name: environ[name] for name in credential_names(environ)}))
    if manifest is not None:
        for choice in manifest.ports.values():
            referred = (environ.get(v["env"], "") for v in choice.options.values() if is_reference(v))
            secrets.update(value for value in referred if len(value) >= _SHORTEST)
    return Redactor(secrets=frozenset(secrets))


def scrub(error: CrucibleError, redactor: Redactor) -> None:
    """Take secrets out of an error's own text; called where errors leave for the outside."""
    error.what, error.where, error.remedy = map(redactor.text, (error.what, error.where, error.remedy))
    error.args = (error.what, error.where, error.remedy)
    if isinstance(error, ConfigError):
        error.problems = tuple(
            Problem(
                path=redactor.text(problem.path),
                message=redactor.text(problem.message),
                remedy=redactor.text(problem.remedy),
            )
            for problem in error.problems
        )
