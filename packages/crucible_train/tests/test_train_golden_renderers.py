"""Renderers give what tinker-cookbook gave on every recorded case, but for the differences named here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXPLAINED = {"tool calls refused", "text stays literal", "no placeholder"}


def check(found: Any) -> None:
    unexplained = [
        (kind, label, verdict)
        for kind, _, label, verdict in found.verdicts()
        if verdict not in {"equal", "error"} | EXPLAINED
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", ["mini", "mini_bos"])
def test_every_recorded_case_is_equal_or_one_of_the_explained_differences(
    renderer_golden: Callable[..., Any], name: str
) -> None:
    check(renderer_golden(name))


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "qwen3_base", "llama3", "llama3_base"])
def test_every_recorded_case_with_a_real_vocabulary_is_equal_or_explained(
    renderer_golden: Callable[..., Any], name: str, shared_data: Path
) -> None:
    check(renderer_golden(name, shared_data))


def test_no_difference_is_explained_for_qwen3(renderer_golden: Callable[..., Any]) -> None:
    verdicts = {
        verdict
        for _, renderer, _, verdict in renderer_golden("mini").verdicts()
        if renderer.startswith("qwen3")
    }
    assert verdicts == {"equal", "error"}


def test_a_wrong_weight_is_seen_by_the_comparison(renderer_golden: Callable[..., Any]) -> None:
    found = renderer_golden("mini_bos")
    found.data["supervised"][0]["modes"]["all_tokens"]["w"][0][0] = 1
    with pytest.raises(AssertionError, match="tokens differ"):
        check(found)


def test_a_wrong_token_is_seen_by_the_comparison(renderer_golden: Callable[..., Any]) -> None:
    found = renderer_golden("mini_bos")
    found.data["generation"][0]["tokens"][-1] += 1
    with pytest.raises(AssertionError, match="tokens differ"):
        check(found)
