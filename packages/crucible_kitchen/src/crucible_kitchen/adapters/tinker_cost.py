"""What a service is paid for: tokens counted, priced where prices are known, and never beyond a cap."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from crucible_ir.errors import ConfigError, Problem, nearest

__all__ = ["CAP", "Ledger", "Prices", "Tokens", "read_cap", "read_prices"]

CAP = "CRUCIBLE_SPENDING_CAP_USD"
"""Variable whose cap goes before the manifest's, which a run keeps as it was when it began."""
_MILLION = 1_000_000
_EVERY_MODEL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Numbers of tokens by what was done with them.

    ``trained`` went through forward and backward, ``scored`` through forward alone, ``prefilled`` are prompts of
    samples (each prompt once, however many samples it has), ``sampled`` are continuations.
    """

    trained: int = 0
    scored: int = 0
    prefilled: int = 0
    sampled: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """The sum, kind by kind."""
        return Tokens(**{name: mine + getattr(other, name) for name, mine in self.counts().items()})

    def counts(self) -> dict[str, int]:
        """Number by kind."""
        return {field.name: int(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens. ``score`` None is the price of training, the dearest that it can be."""

    train: float
    prefill: float
    sample: float
    score: float | None = None

    def cost(self, tokens: Tokens) -> float:
        """US dollars."""
        score = self.train if self.score is None else self.score
        return (
            tokens.trained * self.train
            + tokens.scored * score
            + tokens.prefilled * self.prefill
            + tokens.sampled * self.sample
        ) / _MILLION


def read_prices(table: Mapping[str, Any], *, where: str) -> dict[str, Prices]:
    """Prices by model from a manifest's table; ``*`` stands for every model that is not named.

    Raises:
        ConfigError: an entry that is no price; every problem at once.
    """
    known = [field.name for field in fields(Prices)]
    problems: list[Problem] = []
    found: dict[str, Prices] = {}
    for model, entry in table.items():
        path = f"{where}.{model}"
        if not isinstance(entry, Mapping):
            problems.append(
                Problem(
                    path=path, message="not a table", remedy="give { train = …, prefill = …, sample = … }"
                )
            )
            continue
        wrong = [
            Problem(
                path=f"{path}.{name}",
                message=f"{value!r} is not a price" if name in known else f"there is no price {name!r}",
                remedy="give US dollars per million tokens"
                if name in known
                else f"did you mean {nearest(name, known) or 'train'!r}?",
            )
            for name, value in entry.items()
            if name not in known or not _is_price(value)
        ]
        wrong += [
            Problem(path=f"{path}.{name}", message="missing", remedy="give US dollars per million tokens")
            for name in ("train", "prefill", "sample")
            if name not in entry
        ]
        problems += wrong
        if not wrong:
            found[model] = Prices(**{name: float(value) for name, value in entry.items()})
    if problems:
        raise ConfigError(problems=problems)
    return found


def read_cap(manifest: float | None, variable: str | None) -> float | None:
    """The cap of the variable ``CAP`` if it is set, else the manifest's.

    Raises:
        ConfigError: the variable holds no number.
    """
    if not variable:
        return manifest
    try:
        return float(variable)
    except ValueError:
        raise ConfigError(
            what=f"{variable!r} is no number", where=f"${CAP}", remedy="give US dollars"
        ) from None


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


class Ledger:
    """Counts what is used, holds it under ``cap_usd``, and may be asked from any thread.

    Work reserves the most that it can cost before it is submitted, and settles with what it took when it is done. Work
    that failed was perhaps done: what it reserved stays counted.
    """

    def __init__(self, prices: Mapping[str, Prices], cap_usd: float | None) -> None:
        if cap_usd is not None and not prices:
            raise ConfigError(
                what="a spending cap without prices cannot be held",
                where="spending_cap_usd",
                remedy="give prices (US dollars per million tokens), or leave the cap out",
            )
        if cap_usd is not None and not (cap_usd >= 0):
            raise ConfigError(what=f"{cap_usd}", where="spending_cap_usd", remedy="give US dollars ≥ 0")
        self._prices = dict(prices)
        self._cap = cap_usd
        self._lock = threading.Lock()
        self._used: dict[str, Tokens] = {}
        self._known: set[str] = set()  # checkpoints whose use is counted already
        self._reserved = 0.0

    def prices(self, model: str) -> Prices | None:
        """Prices of a model, if they are given."""
        return self._prices.get(model, self._prices.get(_EVERY_MODEL))

    def require_price(self, model: str) -> None:
        """Under a cap, every model that is used has a price.

        Raises:
            ConfigError: this one has none.
        """
        if self._cap is not None and self.prices(model) is None:
            raise ConfigError(
                what=f"{model} has no price, so that the spending cap cannot be held",
                where="prices",
                remedy=f'add prices."{model}" to the options of the manifest',
            )

    def price_of(self, model: str, tokens: Tokens) -> float | None:
        """US dollars for ``tokens`` of a model; None where it has no price."""
        prices = self.prices(model)
        return None if prices is None else prices.cost(tokens)

    def reserve(self, model: str, most: Tokens) -> float:
        """Keep room for work; what it returns goes to ``settle``.

        Raises:
            ConfigError: the cap would be passed; nothing is reserved then.
        """
        self.require_price(model)
        usd = self.price_of(model, most) or 0.0
        with self._lock:
            already = self._spent() + self._reserved
            if self._cap is not None and already + usd > self._cap:
                raise ConfigError(
                    what=f"this call may cost {usd:.4f} USD, and {already:.4f} of {self._cap:.4f} USD are taken",
                    where="spending_cap_usd",
                    remedy=f"set ${CAP} to more, then resume the run: it goes on from its last checkpoint",
                )
            self._reserved += usd
        return usd

    def settle(self, model: str, reserved: float, used: Tokens) -> None:
        """Count what was used in place of what was reserved."""
        with self._lock:
            self._reserved -= reserved
            self._used[model] = self._used.get(model, Tokens()) + used

    def saved(self, path: str) -> dict[str, dict[str, int]]:
        """What was used so far, by model and kind, to be kept with the checkpoint at ``path``."""
        with self._lock:
            self._known.add(path)
            return {model: tokens.counts() for model, tokens in self._used.items()}

    def take_over(self, path: str, spent: Mapping[str, Tokens]) -> None:
        """Add what a run had used when another process saved the checkpoint at ``path``; once for each path."""
        with self._lock:
            if path in self._known:
                return
            self._known.add(path)
            for model, tokens in spent.items():
                self._used[model] = self._used.get(model, Tokens()) + tokens

    def used_by_model(self) -> dict[str, Tokens]:
        """Tokens of each model that was used."""
        with self._lock:
            return dict(self._used)

    def used(self) -> Tokens:
        """Tokens of all models."""
        with self._lock:
            return sum(self._used.values(), Tokens())

    def usd(self) -> float | None:
        """US dollars of all that was used; None where a used model has no price."""
        with self._lock:
            if any(self.prices(model) is None for model in self._used):
                return None
            return self._spent()

    def metrics(self) -> dict[str, float]:
        """``service/*_tokens``, and ``service/usd`` where it is known: totals so far."""
        totals = {f"service/{kind}_tokens": float(count) for kind, count in self.used().counts().items()}
        usd = self.usd()
        return totals if usd is None or not self._prices else {**totals, "service/usd": usd}

    def _spent(self) -> float:
        return sum(
            prices.cost(tokens)
            for model, tokens in self._used.items()
            if (prices := self.prices(model)) is not None
        )
