"""Tokens are counted, priced by the manifest's table, and never bought beyond the cap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import ConfigError
from crucible_kitchen.adapters.tinker_cost import Ledger, Prices, Tokens, read_cap, read_prices

PRICES = {"a": Prices(train=4.0, prefill=1.0, sample=2.0)}
USED = Tokens(trained=1_000_000, scored=500_000, prefilled=2_000_000, sampled=250_000)


def test_a_price_is_tokens_times_dollars_per_million() -> None:
    assert PRICES["a"].cost(USED) == pytest.approx(4.0 + 2.0 + 2.0 + 0.5)
    cheaper = Prices(train=4.0, prefill=1.0, sample=2.0, score=1.0)
    assert cheaper.cost(USED) == pytest.approx(4.0 + 0.5 + 2.0 + 0.5)


def test_a_model_without_a_price_costs_nobody_knows_what() -> None:
    ledger = Ledger({}, None)
    assert ledger.price_of("a", USED) is None
    ledger.settle("a", ledger.reserve("a", USED), USED)
    assert ledger.used() == USED
    assert ledger.usd() is None
    assert "service/usd" not in ledger.metrics()
    assert ledger.metrics()["service/trained_tokens"] == 1_000_000


def test_the_star_prices_every_other_model() -> None:
    ledger = Ledger({**PRICES, "*": Prices(train=1.0, prefill=1.0, sample=1.0)}, None)
    assert ledger.price_of("b", Tokens(trained=1_000_000)) == 1.0
    assert ledger.price_of("a", Tokens(trained=1_000_000)) == 4.0


def test_what_was_used_replaces_what_was_reserved() -> None:
    ledger = Ledger(PRICES, 10.0)
    first = ledger.reserve("a", Tokens(sampled=4_000_000))
    with pytest.raises(ConfigError, match=r"4\.0000 USD, and 8\.0000 of 10\.0000 USD"):
        ledger.reserve("a", Tokens(trained=1_000_000))
    ledger.settle("a", first, Tokens(sampled=1_000_000))
    assert ledger.usd() == pytest.approx(2.0)
    ledger.reserve("a", Tokens(trained=2_000_000))


def test_a_refused_call_reserves_nothing() -> None:
    ledger = Ledger(PRICES, 4.0)
    with pytest.raises(ConfigError, match=r"set \$CRUCIBLE_SPENDING_CAP_USD to more"):
        ledger.reserve("a", Tokens(trained=1_000_001))
    ledger.reserve("a", Tokens(trained=1_000_000))


@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.floats(0, 1)), max_size=30))
def test_no_order_of_calls_goes_beyond_the_cap(calls: list[tuple[int, float]]) -> None:
    ledger = Ledger(PRICES, 20.0)
    for most, share in calls:
        try:
            reserved = ledger.reserve("a", Tokens(trained=most))
        except ConfigError:
            continue
        ledger.settle("a", reserved, Tokens(trained=int(most * share)))
    spent = ledger.usd()
    assert spent is not None
    assert spent <= 20.0


def test_a_resumed_run_begins_from_what_it_had_used_with_every_model() -> None:
    dearer = {**PRICES, "teacher": Prices(train=9.0, prefill=9.0, sample=9.0)}
    first = Ledger(dearer, None)
    first.settle("a", 0.0, Tokens(trained=1_000_000))
    first.settle("teacher", 0.0, Tokens(scored=100_000))
    kept = first.saved("tinker://r/1")
    ledger = Ledger(dearer, 5.0)
    ledger.settle("a", ledger.reserve("a", Tokens(sampled=1_000)), Tokens(sampled=1_000))
    for _ in range(2):
        ledger.take_over("tinker://r/1", {model: Tokens(**counts) for model, counts in kept.items()})
    assert ledger.usd() == pytest.approx(4.0 + 0.9 + 0.002)
    with pytest.raises(ConfigError):
        ledger.reserve("a", Tokens(trained=500_000))


def test_a_checkpoint_of_this_process_adds_nothing_to_what_it_counted() -> None:
    ledger = Ledger(PRICES, None)
    ledger.settle("a", 0.0, Tokens(trained=1_000_000))
    kept = ledger.saved("tinker://r/1")
    ledger.take_over("tinker://r/1", {model: Tokens(**counts) for model, counts in kept.items()})
    assert ledger.usd() == pytest.approx(4.0)


@pytest.mark.parametrize(("prices", "cap"), [({}, 1.0), (PRICES, -1.0), (PRICES, float("nan"))])
def test_a_cap_that_cannot_be_held_is_refused(prices: dict[str, Prices], cap: float) -> None:
    with pytest.raises(ConfigError, match="spending_cap_usd"):
        Ledger(prices, cap)


def test_under_a_cap_a_model_without_a_price_is_refused() -> None:
    with pytest.raises(ConfigError, match="b has no price"):
        Ledger(PRICES, 5.0).require_price("b")
    Ledger(PRICES, None).require_price("b")


def test_all_problems_of_a_price_table_come_at_once() -> None:
    table: dict[str, Any] = {
        "a": {"train": 1, "prefill": 1, "sample": 1},
        "b": {"train": "x", "sampel": 1, "prefill": -1},
        "c": 3,
    }
    with pytest.raises(ConfigError) as caught:
        read_prices(table, where="prices")
    assert sorted(problem.path for problem in caught.value.problems) == [
        "prices.b.prefill",
        "prices.b.sampel",
        "prices.b.sample",
        "prices.b.train",
        "prices.c",
    ]
    assert "did you mean 'sample'" in str(caught.value)


def test_the_variables_cap_goes_before_the_manifests() -> None:
    assert read_cap(5.0, None) == 5.0
    assert read_cap(5.0, "") == 5.0
    assert read_cap(5.0, "7.5") == 7.5
    assert read_cap(None, "7.5") == 7.5
    with pytest.raises(ConfigError, match=r"\$CRUCIBLE_SPENDING_CAP_USD"):
        read_cap(5.0, "much")
