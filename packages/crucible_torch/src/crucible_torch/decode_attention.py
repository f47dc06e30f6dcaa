"""Attention of sequences that grow: one new token per row over what came before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from crucible_torch.key_values import Width

__all__ = ["DecodePlan"]



