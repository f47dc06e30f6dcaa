"""The files of crucible-tiny, when it is installed."""

from __future__ import annotations

from pathlib import Path

from crucible_ir import AdapterError

__all__ = ["bundled_data", "bundled_model"]

_MISSING = AdapterError(
    what="'tiny' is the bundled model and data of crucible-tiny, which is not installed",
    where="model",
    remedy="pip install 'crucible-cookbook[quickstart]', or name another model and data.path",
)


def bundled_model() -> Path:
    """Folder of the bundled model.

    Raises:
        AdapterError: crucible-tiny is not installed.
    """
    try:
        import crucible_tiny
    except ModuleNotFoundError as error:
        raise _MISSING from error
    return crucible_tiny.model_path()


def bundled_data(name: str) -> Path:
    """A bundled data file.

    Raises:
        AdapterError: crucible-tiny is not installed.
    """
    try:
        import crucible_tiny
    except ModuleNotFoundError as error:
        raise _MISSING from error
    return crucible_tiny.data_path(name)
