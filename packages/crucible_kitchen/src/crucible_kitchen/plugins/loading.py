"""Loading a plugin: import it, look at its shape, and say in one sentence what stands in the way."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from crucible_ir.errors import AdapterError, CrucibleError
from crucible_kitchen.plugins.discovery import Plugin, find
from crucible_kitchen.plugins.groups import group_of
from crucible_kitchen.plugins.shapes import mismatches

__all__ = ["load", "load_adapter", "protocol_of", "require_fit"]

_AFTER_NAME = re.compile(r"[^A-Za-z0-9._-]")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def _says(plugin: Plugin, what: str, remedy: str) -> AdapterError:
    return AdapterError(what=f"{plugin.name!r} of {plugin.package} {what}", where=plugin.group, remedy=remedy)


def missing_module(plugin: Plugin, error: ImportError) -> AdapterError:
    """The sentence for an import that failed inside ``plugin``."""
    module = (error.name or "").partition(".")[0]
    own = plugin.target.partition(":")[0].partition(".")[0]
    if module and module != own and isinstance(error, ModuleNotFoundError):
        return _says(
            plugin,
            f"needs the module {module!r}, which is not installed",
            f"{_remedy(plugin.package, module)}, or choose another adapter",
        )
    return _says(
        plugin, f"cannot be imported ({error})", f"reinstall {plugin.package} or choose another adapter"
    )


def _remedy(package: str, module: str) -> str:
    """What to type so that ``module`` is there: the extra of ``package`` that brings it, else the module itself."""
    wanted = module.replace("_", "-").lower()
    try:
        needs = requires(package) or []
    except PackageNotFoundError:
        needs = []
    for need in needs:
        extra = _EXTRA.search(need)
        if extra and _AFTER_NAME.split(need, maxsplit=1)[0].replace("_", "-").lower() == wanted:
            return f"pip install '{package}[{extra[1]}]'"
    return f"pip install {wanted}"


def load(plugin: Plugin) -> Any:
    """The object that ``plugin`` names.

    Raises:
        AdapterError: its import fails or the name is not in its module.
    """
    module_name, _, path = plugin.target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise missing_module(plugin, error) from error
    except CrucibleError:
        raise
    except Exception as error:
        raise _says(
            plugin,
            f"raises {type(error).__name__} when imported ({error})",
            f"report it to the makers of {plugin.package} or choose another adapter",
        ) from error
    for attribute in filter(None, path.split(".")):
        try:
            value = getattr(value, attribute)
        except AttributeError as error:
            raise _says(
                plugin,
                f"names {attribute!r}, which {module_name} does not have",
                f"reinstall {plugin.package} or report it to its makers",
            ) from error
    return value


def protocol_of(port: str) -> type:
    """The protocol that adapters of ``port`` fit."""
    module, _, name = group_of(port).protocol.partition(":")
    protocol: type = getattr(importlib.import_module(module), name)
    return protocol


def require_fit(plugin: Plugin, port: str, adapter: object) -> None:
    """Check that ``adapter`` (a class or an object) has every method of the port.

    Raises:
        AdapterError: names each method that is missing or takes other arguments.
    """
    protocol = protocol_of(port)
    wrong = mismatches(adapter, protocol)
    if wrong:
        raise _says(
            plugin,
            f"does not fit the port {protocol.__name__}: {'; '.join(wrong)}",
            f"install a version of {plugin.package} made for this version of Crucible",
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # its parent is missing, or a finder refuses it
        return False


def _require_modules(plugin: Plugin, adapter: type) -> None:
    """An adapter may name the SDKs that it imports late in ``required_modules``; looked for without importing them."""
    for module in getattr(adapter, "required_modules", ()):
        if not _is_installed(module):
            raise missing_module(plugin, ModuleNotFoundError(name=module))


def load_adapter(port: str, name: str) -> tuple[Plugin, Any]:
    """The adapter ``name`` of ``port`` as its class or factory, with the plugin it came from.

    A class is checked against the port here; what a factory function makes is checked when it is made.

    Raises:
        AdapterError: unknown, owned twice, not importable, without a module it needs, or not fitting the port.
    """
    plugin = find(group_of(port).group, name)
    factory = load(plugin)
    if isinstance(factory, type):
        require_fit(plugin, port, factory)
        _require_modules(plugin, factory)
    elif not callable(factory):
        raise _says(plugin, "is neither a class nor a function", "name a class or a function that makes one")
    return plugin, factory
