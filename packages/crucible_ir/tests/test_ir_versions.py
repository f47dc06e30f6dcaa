"""Version ids."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from crucible_ir import ConfigError, VersionId, version_id

ADAPTER: TypeAdapter[str] = TypeAdapter(VersionId)

GOOD = [
    "0.0.0",
    "1.2.3",
    "v1.2.3",
    "10.20.30",
    "1.2.3-rc.1",
    "1.2.3-0a.x-y+build.007",
    "1.2.3+5",
    "20260106T101530-ab12",
    "20260106T101530Z-ab12cd34",
    "20261231T235959-A",
]
BAD = [
    "",
    "1",
    "1.2",
    "1.2.3garbage",
    "1.2.3 ",
    "1.2.3\n",
    " 1.2.3",
    "01.2.3",
    "1.2.3-",
    "1.2.3-01",
    "1.2.3+",
    "1.2.3.4",
    "vv1.2.3",
    "20260106T101530",
    "20260106T101530-",
    "20261306T101530-ab12",
    "20260132T101530-ab12",
    "20260106T251530-ab12",
    "20260106T106030-ab12",
    "20260106T101530-ab 12",
    "20260106T101530-ab12\n",
    "1.2.3-" + "a" * 200,
    "１.2.3",
]


@pytest.mark.parametrize("text", GOOD)
def test_semantic_versions_and_times_with_a_run_id_are_versions(text: str) -> None:
    assert ADAPTER.validate_python(text) == version_id(text) == text


@pytest.mark.parametrize("text", BAD)
def test_the_whole_text_must_be_a_version(text: str) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(text)
    with pytest.raises(ConfigError, match="is not a version"):
        version_id(text)
