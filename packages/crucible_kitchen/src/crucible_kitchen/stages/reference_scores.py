"""Scores of a reference that later runs may take over: kept as a blob, found through what decides them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from crucible_ir import ArtifactRef, IntegrityError, NotFoundError, digest_of
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.examples import PairExample
from crucible_kitchen.stages.keys import PROVENANCE
from crucible_train.ports import BlobStore, ModelRegistry
from crucible_train.types import Datum, ImageChunk

__all__ = ["KeptScores", "scores_key"]


class KeptScores:
    """The scores of some pairs under the reference, among all that runs of this home have kept."""

    def __init__(self, registry: ModelRegistry, blobs: BlobStore, key: str) -> None:
        self._registry = registry
        self._blobs = blobs
        self._id = f"reference-logprobs-{key.removeprefix('sha256:')}"

    def find(self) -> bytes | None:
        """What was kept; None if nothing was, or its bytes are gone or damaged."""
        try:
            ref = self._registry.resolve(f"artifact:{self._id}")
            return None if ref.digest is None else self._blobs.get(ref.digest)
        except (NotFoundError, IntegrityError):
            return None

    def keep(self, data: bytes, ctx: StageContext) -> None:
        """Let later runs find ``data``."""
        digest = self._blobs.put(data)
        model = ctx.get(PROVENANCE)["model"]["id"]
        self._registry.record(
            ArtifactRef(
                id=self._id,
                digest=digest,
                uri=digest,
                media_type="application/jsonl",
                size_bytes=len(data),
                produced_by=ctx.run_id,
                parents=(f"model:{model}",),
            )
        )


def scores_key(
    provenance: Mapping[str, Any], pairs: Sequence[PairExample], settings: Mapping[str, Any]
) -> str:
    """Digest of all that decides the scores: weights, engine and packages, tokens with their weights, settings."""
    content = hashlib.sha256()
    for pair in pairs:
        for datum in pair.datums:
            _add(content.update, datum)
    decides = {name: provenance.get(name) for name in ("backend", "environment")}
    weights = provenance["model"]["digest"]
    return digest_of({**decides, "model": weights, "pairs": content.hexdigest(), **settings})


def _add(update: Callable[[bytes], None], datum: Datum) -> None:
    for chunk in datum.model_input.chunks:
        if isinstance(chunk, ImageChunk):
            update(f"image {chunk.expected_tokens} {len(chunk.data)}".encode() + chunk.data)
        else:
            update(f"tokens {len(chunk.tokens)}".encode() + np.array(chunk.tokens, dtype=np.int64).tobytes())
    for name, tensor in sorted(datum.loss_fn_inputs.items()):
        update(f"{name} {tensor.array.dtype} {tensor.array.shape}".encode() + tensor.array.tobytes())
