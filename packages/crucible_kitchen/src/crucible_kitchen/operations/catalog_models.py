"""Inputs and outputs of the operations on what is installed."""

from __future__ import annotations

from typing import Any

from crucible_ir import Contract

__all__ = [
    "AdapterItem",
    "AdapterList",
    "Catalog",
    "CatalogItem",
    "Check",
    "DoctorReport",
    "ListAdapters",
    "ListNames",
    "OneManifest",
]


class ListNames(Contract):
    """All names, or one with its details."""

    name: str | None = None


class CatalogItem(Contract):
    """Something that an installed package adds."""

    name: str
    summary: str
    package: str
    version: str
    details: dict[str, Any] | None = None
    """Options, keys and ports as JSON Schema, when one name was asked for."""


class Catalog(Contract):
    """What is installed in one group, by name."""

    group: str
    items: tuple[CatalogItem, ...]


class ListAdapters(Contract):
    """Which adapters."""

    port: str | None = None
    check: bool = False
    """Import each one and look whether it fits its port."""


class AdapterItem(Contract):
    """One adapter of one port."""

    port: str
    name: str
    summary: str
    package: str
    version: str
    problem: str | None = None
    """Why it cannot be used; only looked for with ``check``."""


class AdapterList(Contract):
    """Adapters by port and name."""

    adapters: tuple[AdapterItem, ...]


class OneManifest(Contract):
    """Which manifest to look at."""

    manifest: str = "offline"


class Check(Contract):
    """One thing the doctor looked at."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class DoctorReport(Contract):
    """What is in order on this machine and what is not."""

    ok: bool
    checks: tuple[Check, ...]
