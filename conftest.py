"""Settings of all tests: the same hypothesis examples each time; more, and random ones, under `make prove`.

Slow tests come first, so that no core waits for the other at the end.
"""

import importlib.util
import os

import pytest

if importlib.util.find_spec(
    "hypothesis"
):  # a package without property tests is also tested without hypothesis
    from hypothesis import settings

    settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
    settings.register_profile("full", deadline=None, max_examples=2000, database=None, print_blob=True)
    settings.load_profile("full" if os.environ.get("CRUCIBLE_PROOF") == "full" else "fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with the longest limit of their own, then slow ones, then the rest, each in order."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return item.get_closest_marker("timeout") is None, item.get_closest_marker("slow") is None

    items.sort(key=place)
