"""The table of preferences, reinforcement and distillation in docs/parity.md is what the files hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


def test_the_rows_of_the_algorithms_are_what_their_files_hold(
    pytestconfig: pytest.Config, golden: Callable[[str], dict[str, Any]]
) -> None:
    page = (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- algorithms: begin -->\n(.*?)<!-- algorithms: end -->", page, re.DOTALL)
    assert found
    rows = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
        for line in found[1].splitlines()
        if line.startswith("| `")
    ]
    held = [
        ("dpo.json", len(golden("dpo")["cases"]), 0),
    ]
    assert [(name, int(cases), int(equal), int(explained)) for name, _, cases, equal, explained in rows] == [
        (name, cases, cases - explained, explained) for name, cases, explained in held
    ]
