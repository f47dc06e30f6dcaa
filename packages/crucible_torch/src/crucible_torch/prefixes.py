"""Keys and values of prompts that were read before, by the block, so that what prompts share is read once.

A block is ``BLOCK`` tokens of a prompt after the same tokens. It is read as it is read in every other prompt, so
that whoever begins with it computes the same with the stored keys and values as without them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["BLOCK", "PrefixCache"]

BLOCK = 64


class PrefixCache:
    """Blocks of at most ``limit`` bytes in all; those that were used longest ago make room for new ones.

    Blocks belong to weights: ``version`` names them, and none is ever found under another version.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._numbers = 0
        self._blocks: OrderedDict[Hashable, tuple[int, torch.Tensor]] = OrderedDict()

    @property
    def open(self) -> bool:
        """Whether anything is kept at all."""
        return self._limit > 0

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, version: int, tokens: NDArray[np.int64]) -> list[torch.Tensor]:
        """The first blocks of a prompt, as many as are there without a gap; its last token is never in one.

        Each is [layers, 2, heads, BLOCK, head_dim], keys before values.
        """
        keys, blocks = self._chain(version, tokens)
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        return blocks

    def put(
        self, version: int, tokens: NDArray[np.int64], blocks: Sequence[torch.Tensor], *, first: int
    ) -> None:
        """Keep the blocks of a prompt from its block number ``first`` on; those before must be there."""
        keys, _ = self._chain(version, tokens)
        parent: Hashable = self._blocks[keys[-1]][0] if keys else ("weights", version)
        for index in range(len(keys), first + len(blocks)):
            if index < first:
                break
            block = blocks[index - first]
            key: Hashable = (parent, _part(tokens, index))
            self._numbers += 1
            parent = self._numbers
            self._blocks[key] = parent, block
            self._size += block.nbytes
            keys.append(key)
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        while self._size > self._limit:
            _, (_, dropped) = self._blocks.popitem(last=False)
            self._size -= dropped.nbytes

    def _chain(self, version: int, tokens: NDArray[np.int64]) -> tuple[list[Hashable], list[torch.Tensor]]:
        keys: list[Hashable] = []
        blocks: list[torch.Tensor] = []
        parent: Hashable = ("weights", version)
        for index in range((len(tokens) - 1) // BLOCK):
            key: Hashable = (parent, _part(tokens, index))
            entry = self._blocks.get(key)
            if entry is None:
                break
            parent, block = entry
            keys.append(key)
            blocks.append(block)
        return keys, blocks


def _part(tokens: NDArray[np.int64], index: int) -> bytes:
    return tokens[index * BLOCK : (index + 1) * BLOCK].tobytes()
