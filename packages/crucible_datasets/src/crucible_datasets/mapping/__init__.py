"""Field mappings: from the columns of a data set to messages and preferences."""

from crucible_datasets.mapping.detection import Detection, columns_of, detect_schema, resolve_fields
from crucible_datasets.mapping.exclusion import Exclusion
from crucible_datasets.mapping.field_mapping import FieldMapping
from crucible_datasets.mapping.messages import Unfit, parse_human_assistant
from crucible_datasets.mapping.row_mapper import DropCounter, RowMapper
from crucible_datasets.mapping.schemas import SCHEMAS, Schema

__all__ = [
    "SCHEMAS",
    "Detection",
    "DropCounter",
    "Exclusion",
    "FieldMapping",
    "RowMapper",
    "Schema",
    "Unfit",
    "columns_of",
    "detect_schema",
    "parse_human_assistant",
    "resolve_fields",
]
