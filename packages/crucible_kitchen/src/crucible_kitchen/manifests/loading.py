"""Reading manifests: built-in profiles and files of the user's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from crucible_ir import BackendRef
from crucible_ir.errors import ConfigError, NotFoundError, nearest
from crucible_kitchen.manifests.manifest import Manifest

__all__ = ["is_path", "load_manifest", "profiles"]

_PROFILES = files("crucible_kitchen.manifests") / "profiles"


def profiles() -> tuple[str, ...]:
    """Names of the built-in manifests, sorted."""
    return tuple(
        sorted(item.name.removesuffix(".toml") for item in _PROFILES.iterdir() if item.name.endswith(".toml"))
    )


def is_path(name: str) -> bool:
    """Whether ``name`` means a file rather than a built-in profile."""
    return name.endswith(".toml") or "/" in name or "\\" in name


def _text(name: str) -> str:
    if is_path(name):
        try:
            return Path(name).expanduser().read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotFoundError(
                what=f"there is no manifest file {name}",
                where="manifest",
                remedy=f"give a path that exists or one of {', '.join(profiles())}",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                what=f"{name} cannot be read ({error})", where="manifest", remedy="give a readable TOML file"
            ) from error
    known = profiles()
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(
            what=f"there is no manifest {name!r}",
            where="manifest",
            remedy=f"did you mean {near!r}?"
            if near
            else f"built in: {', '.join(known)}; or give a .toml file",
        )
    return (_PROFILES / f"{name}.toml").read_text(encoding="utf-8")


def _read(name: str, *, seen: tuple[str, ...] = ()) -> Manifest:
    try:
        data = tomllib.loads(_text(name))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(what=f"not TOML: {error}", where=name, remedy="correct that line") from error
    manifest = Manifest.parse(data, where=name)
    problems = manifest.unknown_ports(where=name)
    if problems:
        raise ConfigError(problems=problems)
    if manifest.extends is None:
        return manifest
    if is_path(manifest.extends) or manifest.extends in seen:
        raise ConfigError(
            what=f"extends {manifest.extends!r}, which is not a built-in profile above it",
            where=f"{name}.extends",
            remedy=f"built in: {', '.join(profiles())}",
        )
    return manifest.on_top_of(_read(manifest.extends, seen=(*seen, name)))


def load_manifest(name: str, overrides: BackendRef | None = None) -> Manifest:
    """The manifest called ``name`` (a built-in profile or a TOML file), with an experiment's overrides.

    Raises:
        ConfigError: no such profile, bad TOML, unknown keys or ports; every problem of the file at once.
        NotFoundError: there is no such file.
    """
    manifest = _read(name)
    return manifest.with_overrides(overrides) if overrides is not None else manifest
