"""A model and an adapter as sampling sees them: flat rows in, states and scores out."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count as count_up

import torch

from crucible_torch.adapter import Adapter
from crucible_torch.attention import RowPlan
from crucible_torch.fused import FusedAdapter, FusedDecoder
from crucible_torch.model import LoadedModel
from crucible_torch.prefixes import BLOCK, PrefixCache
from crucible_torch.rows import padded, rounded

__all__ = ["Inference"]

_VERSIONS = count_up(1)
"""Numbers of adapters' snapshots; each is given once, since an id may come again."""


class Inference:
    """Fixed weights over a model; what it lays out for decoding is made at first use and shared where it can be.

    A row does not depend on the rows beside it, bit for bit in float32 on a CPU.
    """

    def __init__(self, model: LoadedModel, adapter: Adapter | None, *, cached_bytes: int) -> None:
        if model.prefixes is None:
            model.prefixes = PrefixCache(cached_bytes)
        self.model = model
        self.prefixes = model.prefixes
        self._adapter = adapter
        self._decoder: FusedDecoder | None = None
        self._laid_out: FusedAdapter | None = None
        self.version = 0 if adapter is None else next(_VERSIONS)

    @property
    def key(self) -> Hashable:
        """Equal for the same weights."""
        return id(self.model), self.version

    def new_blocks(self, count: int) -> Sequence[torch.Tensor]:
        """Room for ``count`` blocks of a prompt's keys and values, if they are to be kept."""
        if self._decoder is None or not self.prefixes.open:
            return ()
        return [self._decoder.new_block(BLOCK) for _ in range(count)]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside the block passes may be run; the engine's one thread is the only caller."""
        if not FusedDecoder.serves(self.model.module):
            self.model.steady()
        elif self._decoder is None:
            self._decoder = self.model.decoder()
            if self._adapter is not None:
                self._laid_out = self._decoder.adapted(self._adapter.pairs, self._adapter.scale)
        with self.model.using(self._adapter):
            yield

    @property
    def layers(self) -> int:
        """How many blocks the model has, where it matters to whoever plans a pass."""
        return len(self._decoder) if self._decoder is not None else sys.maxsize

    def hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attention: RowPlan,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Last hidden states [rows, width] of token ids and positions (rows,), or of the rows that are ``wanted``."""
        count = rounded(len(tokens))
        ids, places = (padded(part.to(self.model.device), count) for part in (tokens, positions))
        rows = torch.arange(len(tokens)) if wanted is None else wanted
        if self._decoder is None:
            return self.model.hidden(ids[None], places[None], attention)[0, rows]
        if wanted is not None:
            wanted = padded(wanted.to(self.model.device), rounded(len(rows)))
        return self._decoder.hidden((ids, places, wanted), attention, self._laid_out)[: len(rows)]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary] of states [rows, width], in float32."""
        rows = padded(states, rounded(len(states)))
        found = (
            self.model.logits(rows) if self._decoder is None else self._decoder.logits(rows, self._laid_out)
        )
        return found[: len(states)].float()
