"""The bundled model, which goes by a short name."""

from __future__ import annotations

from importlib import import_module

from crucible_ir import AdapterError

__all__ = ["BUNDLED", "bundled_or"]

BUNDLED = "tiny"
_PACKAGE = "crucible_tiny"


def bundled_or(model: str) -> str:
    """The folder of the bundled model where its name is given; any other model as it is.

    Raises:
        AdapterError: the package that holds it is not installed.
    """
    if model != BUNDLED:
        return model
    try:
        return str(import_module(_PACKAGE).model_path())
    except ModuleNotFoundError:
        raise AdapterError(
            what=f"{BUNDLED!r} is the bundled model of crucible-tiny, which is not installed",
            where="model",
            remedy="pip install 'crucible-cookbook[quickstart]', or name another model",
        ) from None
