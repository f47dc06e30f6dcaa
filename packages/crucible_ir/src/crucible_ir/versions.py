"""Version ids of models: semantic versions, or a time and the tail of a run id."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from crucible_ir.errors import ConfigError

__all__ = ["VERSION_PATTERN", "VersionId", "version_id"]

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PART = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = (
    rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PART}(?:\.{_PART})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_DAY = r"[0-9]{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_TIME = r"(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]"
_STAMP = rf"{_DAY}T{_TIME}Z?-[0-9A-Za-z]{{1,64}}"

VERSION_PATTERN = rf"^(?:{_SEMVER}|{_STAMP})$"
"""The whole text: Semantic Versioning 2.0 (a leading ``v`` may stand), or ``YYYYMMDDTHHMMSS-<tail of the run id>``."""

VersionId = Annotated[str, StringConstraints(pattern=VERSION_PATTERN, max_length=128)]
"""``1.2.3``, ``1.2.3-rc.1+build.5``, ``20260106T101530-ab12cd34``; never ``1.2.3garbage``."""

_COMPILED = re.compile(VERSION_PATTERN)


def version_id(text: str) -> str:
    """``text`` if it is a version id.

    Raises:
        ConfigError: otherwise.
    """
    if len(text) <= 128 and "\n" not in text and _COMPILED.match(text):
        return text
    raise ConfigError(
        what=f"{text!r} is not a version",
        where="version",
        remedy="give a semantic version such as 1.2.3, or a time and run id such as 20260106T101530-ab12cd34",
    )
