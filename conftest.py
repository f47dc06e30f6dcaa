"""Settings of all tests: the same hypothesis examples each time; more, and random ones, under `make prove`."""

import importlib.util
import os

if importlib.util.find_spec(
    "hypothesis"
):  # a package without property tests is also tested without hypothesis
    from hypothesis import settings

    settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
    settings.register_profile("full", deadline=None, max_examples=2000, database=None, print_blob=True)
    settings.load_profile("full" if os.environ.get("CRUCIBLE_PROOF") == "full" else "fixed")
