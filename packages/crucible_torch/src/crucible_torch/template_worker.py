"""The process that runs chat templates: requests on standard input, answers on standard output, a line of JSON each.

A template is a program from outside. It runs in the sandbox of ``transformers``, which reads no files, and in a
process of its own, which may be killed and can take no more than so much memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["main"]

_MEMORY_BYTES = 4 << 30
_PROCESSOR_S = 60
_LONGEST_TEXT = 1 << 24
_LONGEST_ERROR = 300
_CLOCK = "strftime_now"
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NO_DAY = "{% set strftime_now = the_current_date %}{{ '' }}"
_FIXED_DAY = (
    "{% macro strftime_now(form) %}{% set day = namespace(text=form) %}"
    "{% for sign, value in the_day.items() %}{% set day.text = day.text | replace(sign, value) %}{% endfor %}"
    "{{ day.text }}{% endmacro %}{{ '' }}"
)
"""Put before a template that asks for the day, so that it learns the one it is given and no clock's."""


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr
    from transformers.utils import chat_template_utils

    _limit_memory()
    for line in sys.stdin:
        _limit_time()
        request = json.loads(line)
        texts = [_written(chat_template_utils, request, call) for call in request["calls"]]
        answers.write(json.dumps(texts) + "\n")
        answers.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _limit_time() -> None:
    """Let one request take so much processor time: a template that does not end outlives no dead parent."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(spent.ru_utime + spent.ru_stime) + _PROCESSOR_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _written(templates: Any, request: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    source: str = request["sources"]["tools" if call["tools"] else "plain"]
    marked = _MARKS.search(source) is not None
    given: dict[str, Any] = dict(request["variables"])
    if _CLOCK in source:
        source = (_FIXED_DAY if request["day"] else _NO_DAY) + source
        given |= {"the_day": request["day"]} if request["day"] else {}
    try:
        texts, generated = templates.render_jinja_template(
            conversations=[call["messages"]],
            tools=call["tools"] or None,
            chat_template=source,
            add_generation_prompt=call["add_generation_prompt"],
            return_assistant_tokens_mask=marked,
            **given,
        )
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        return {"error": f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]}
    text: str = texts[0]
    if len(text) > _LONGEST_TEXT:
        return {"error": f"it wrote {len(text)} characters"}
    return {"text": text, "generated": generated[0] if marked else None}


if __name__ == "__main__":
    main()
