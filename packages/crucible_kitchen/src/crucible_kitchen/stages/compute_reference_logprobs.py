"""Score every pair once under the reference: the weights as they are before the first step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crucible_ir import Contract, IntegrityError, digest_bytes
from crucible_kitchen.atomic import read_lines, write_atomic
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.examples import PairExample
from crucible_kitchen.stages.keys import EVAL_PAIRS, EVAL_REFERENCE, PAIRS, PROVENANCE, REFERENCE, SESSION
from crucible_kitchen.stages.reference_scores import KeptScores, scores_key
from crucible_train.ports import TrainingClient
from crucible_train.preference import sequence_logprobs

__all__ = ["ComputeReferenceLogprobs", "ComputeReferenceLogprobsOptions", "pair_logprobs"]


class ComputeReferenceLogprobsOptions(Contract):
    """How pairs are scored."""

    batch_size: int = Field(default=32, ge=1)
    """Pairs per forward pass; does not change the result."""


class ComputeReferenceLogprobs(Stage):
    """Score every pair once under the reference, and keep the scores in the run's folder.

    The reference is the policy before its first step. A resumed run reads the kept scores: its present weights
    are no reference. Where the manifest names a registry and a blob store, and the backend's digest of the base model
    is one of its content, a later run with the same model, engine, packages and pairs takes the scores over.
    """

    name = "compute_reference_logprobs"
    reads = (SESSION, PAIRS, EVAL_PAIRS, PROVENANCE)
    writes = (REFERENCE, EVAL_REFERENCE)
    optional_ports = ("training_backend", "model_registry", "blob_store")
    options_model = ComputeReferenceLogprobsOptions
    setup = True

    async def run(self, ctx: StageContext) -> None:
        """(P, 2) for the training pairs and for the held-out ones: chosen, rejected.

        Raises:
            IntegrityError: a run that goes on from a checkpoint has lost the scores, or they are of other pairs.
        """
        ctx.set(REFERENCE, await self._scores(ctx, ctx.get(PAIRS), "train"))
        ctx.set(EVAL_REFERENCE, await self._scores(ctx, ctx.get(EVAL_PAIRS), "held_out"))

    async def _scores(
        self, ctx: StageContext, pairs: Sequence[PairExample], role: str
    ) -> NDArray[np.float64]:
        path = ctx.run_dir / "results" / f"reference_{role}.jsonl"
        if ctx.resume is not None:
            return _kept(path, pairs)
        kept = self._kept_scores(ctx, pairs)
        data = None if kept is None else kept.find()
        if data is None:
            found = await pair_logprobs(ctx, ctx.get(SESSION), pairs, self.options.batch_size)
            data = _written(pairs, found)
            if kept is not None and pairs:
                kept.keep(data, ctx)
        elif pairs:
            ctx.emit("reference.reused", {"role": role, "pairs": len(pairs), "digest": digest_bytes(data)})
        write_atomic(path, data)
        return _kept(path, pairs)

    def _kept_scores(self, ctx: StageContext, pairs: Sequence[PairExample]) -> KeptScores | None:
        if not all(ctx.has_port(name) for name in self.optional_ports):
            return None
        if not ctx.port("training_backend").capabilities().digests_content:
            return None
        settings = {"dtype": ctx.training.dtype, "batch_size": self.options.batch_size}
        provenance = ctx.get(PROVENANCE)
        key = scores_key(provenance, pairs, settings)
        return KeptScores(ctx.port("model_registry"), ctx.port("blob_store"), key)


async def pair_logprobs(
    ctx: StageContext, session: TrainingClient, pairs: Sequence[PairExample], batch_size: int
) -> NDArray[np.float64]:
    """Log-probability of each pair's chosen and rejected completion under the present weights, float64 (P, 2)."""
    batches = [
        [datum for pair in pairs[start : start + batch_size] for datum in pair.datums]
        for start in range(0, len(pairs), batch_size)
    ]
    handles = [session.forward(batch) for batch in batches]
    found = [np.zeros((0, 2))]
    for number, (batch, handle) in enumerate(zip(batches, handles, strict=True), start=1):
        output = await handle
        found.append(sequence_logprobs(batch, output.logprobs).reshape(-1, 2))
        ctx.publish("scoring pairs", {"done": min(number * batch_size, len(pairs)), "of": len(pairs)})
    return np.concatenate(found)


def _written(pairs: Sequence[PairExample], found: NDArray[np.float64]) -> bytes:
    """One line a pair; numbers come back from it as they were."""
    lines = (
        json.dumps({"example_id": pair.example_id, "chosen": chosen, "rejected": rejected})
        for pair, (chosen, rejected) in zip(pairs, found.tolist(), strict=True)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _kept(path: Path, pairs: Sequence[PairExample]) -> NDArray[np.float64]:
    remedy = "start a new run; the weights of a resumed one are no reference"
    try:
        rows = [json.loads(line) for line in read_lines(path)]
    except FileNotFoundError:
        raise IntegrityError(what="the reference scores are gone", where=str(path), remedy=remedy) from None
    if [row["example_id"] for row in rows] != [pair.example_id for pair in pairs]:
        raise IntegrityError(what="the reference scores are of other pairs", where=str(path), remedy=remedy)
    return np.array([[row["chosen"], row["rejected"]] for row in rows], dtype=np.float64).reshape(-1, 2)
