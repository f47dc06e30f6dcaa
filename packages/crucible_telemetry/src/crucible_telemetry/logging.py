"""Log lines of an application: JSON for machines, coloured lines for people, secrets taken out of both.

For applications alone; importing this package configures nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from crucible_ir.errors import ConfigError, nearest
from crucible_ir.redaction import Redactor, secrets_in

__all__ = ["LEVELS", "configure"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""Names of the levels."""

_HANDLER = "crucible"
_FACTS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(
    *,
    level: str = "warning",
    render: Literal["console", "json"] = "console",
    stream: TextIO | None = None,
    redactor: Redactor | None = None,
) -> None:
    """Send log lines of ``level`` and above to ``stream`` (standard error if None); calling again replaces.

    Without a ``redactor``, the environment's secrets are taken out.

    Covers structlog and the standard ``logging`` module, so that other libraries' lines go through the same
    redaction. Every line carries its fields, the level and a UTC time stamp.

    Raises:
        ConfigError: there is no such level.
    """
    number = LEVELS.get(level.lower())
    if number is None:
        near = nearest(level.lower(), LEVELS)
        raise ConfigError(
            what=f"{level!r} is not a level",
            where="level",
            remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(LEVELS)}",
        )
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(target, render, redactor or Redactor(secrets=secrets_in(os.environ))))
    handler.set_name(_HANDLER)
    root = logging.getLogger()
    for old in [known for known in root.handlers if known.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_FACTS,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _formatter(target: TextIO, render: str, redactor: Redactor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_FACTS,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _Redaction(redactor),
            structlog.processors.JSONRenderer(ensure_ascii=False)
            if render == "json"
            else structlog.dev.ConsoleRenderer(colors=target.isatty()),
        ],
    )


class _Redaction:
    """Takes secrets out of every field; what is not JSON is shown as its ``repr`` first."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        shown: dict[str, Any] = self._redactor({key: _shown(value) for key, value in event_dict.items()})
        return shown


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)
