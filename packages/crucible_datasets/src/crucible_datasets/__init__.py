"""Local datasets: files and memory, field mappings, seeded order, splits, digests."""

from crucible_datasets.digests import (
    ContentDigest,
    canonical_row,
    content_digest,
    example_id,
    order_digest,
    transform_digest,
)
from crucible_datasets.mapping import Detection, FieldMapping, detect_schema, parse_human_assistant
from crucible_datasets.memory import MemoryDataset, MemoryDatasets
from crucible_datasets.order import buffer_shuffle, permutation
from crucible_datasets.snapshots import MappedRows, RowStream, snapshot_of, snapshot_of_stream
from crucible_datasets.sources import HeldRows, PlacedRow, SourceRows
from crucible_datasets.splits import split_positions, split_rows, split_snapshot
from crucible_datasets.store import LocalDatasetStore

__all__ = [
    "ContentDigest",
    "Detection",
    "FieldMapping",
    "HeldRows",
    "LocalDatasetStore",
    "MappedRows",
    "MemoryDataset",
    "MemoryDatasets",
    "PlacedRow",
    "RowStream",
    "SourceRows",
    "buffer_shuffle",
    "canonical_row",
    "content_digest",
    "detect_schema",
    "example_id",
    "order_digest",
    "parse_human_assistant",
    "permutation",
    "snapshot_of",
    "snapshot_of_stream",
    "split_positions",
    "split_rows",
    "split_snapshot",
    "transform_digest",
]
