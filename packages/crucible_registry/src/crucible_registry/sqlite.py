"""The model registry in one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from crucible_ir.errors import ConfigError, ConflictError, DataError, IntegrityError, NotFoundError, nearest
from crucible_ir.refs import ModelRef, Ref
from crucible_registry.database import Database
from crucible_registry.lineage import Node, reachable, sorted_parents_first
from crucible_registry.names import TYPES, default_identity, names_of, plain_ref, refuse_model, split_name

__all__ = ["SqliteModelRegistry"]


def utc_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


class SqliteModelRegistry:
    """``root/registry.sqlite``; fits ``ModelRegistry``.

    Any number of processes may use it at once: a unique constraint makes one version of one identity, however
    many register it. An edge is tied to the very ref its parent's name meant when it was kept (or to the first
    one kept under that name later), so that lineage does not move when a name gets a newer content.
    """

    def __init__(
        self, *, root: Path, lock_timeout_s: float = 10.0, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = Database(Path(root) / "registry.sqlite", lock_timeout_s=lock_timeout_s)
        self._clock = clock

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def register(self, model: ModelRef, *, identity: str | None = None) -> tuple[ModelRef, bool]:
        """Add a version of the model, or return the one that has this identity already.

        Raises:
            ConflictError: the version exists with another identity, or its name is an alias.
            DataError: the model would be its own ancestor.
        """
        identity = identity or default_identity(model)
        with self._database.writing() as db:
            known = db.execute(
                "SELECT node FROM refs WHERE kind = 'model' AND id = ? AND identity = ?", (model.id, identity)
            ).fetchone()
            if known is not None:
                return self._model(db, known[0]), False
            version = model.version or _next_version(db, model.id)
            taken = db.execute(
                "SELECT 'a version' FROM refs WHERE kind = 'model' AND id = ?1 AND version = ?2"
                " UNION SELECT 'an alias' FROM aliases WHERE id = ?1 AND alias = ?2",
                (model.id, version),
            ).fetchone()
            if taken is not None:
                raise ConflictError(
                    what=f"{version!r} is {taken[0]} of it already, of another identity",
                    where=model.key,
                    remedy="give another version, or none to get the next number",
                )
            kept = model.model_copy(update={"version": version})
            self._insert(db, kept, identity)
            return kept, True

    def get(self, id: str, version: str | None = None) -> ModelRef:
        """The version (or alias, or None for the newest) of the model ``id``.

        Raises:
            NotFoundError: with the nearest known name.
        """
        with self._database.reading() as db:
            nodes = _model_nodes(db, id, version)
            if nodes:
                return self._model(db, nodes[-1])
            versions = [
                row[0] for row in db.execute("SELECT version FROM refs WHERE id = ?", (id,)) if row[0]
            ]
            if versions:
                near = nearest(str(version), [*versions, *self.aliases(id)])
                hint = f"did you mean {near!r}?" if near else f"it has {', '.join(versions[-5:])}"
                raise NotFoundError(
                    what=f"has no version or alias {version!r}", where=f"model:{id}", remedy=hint
                )
            known = [row[0] for row in db.execute("SELECT DISTINCT id FROM refs WHERE kind = 'model'")]
            raise _not_found(f"model {id!r}", nearest(id, known))

    def models(self, id: str | None = None, *, stage: str | None = None) -> list[ModelRef]:
        """Registered versions, oldest first, of one id or one stage if given."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT node FROM refs WHERE kind = 'model' AND id = coalesce(?, id) AND stage = coalesce(?, stage)"
                " ORDER BY node",
                (id, stage),
            ).fetchall()
            return [self._model(db, node) for (node,) in rows]

    def set_alias(self, id: str, alias: str, version: str) -> None:
        """Let ``alias`` mean ``version`` from now on.

        Raises:
            NotFoundError: there is no such version.
            ConflictError: ``alias`` is the name of a version.
        """
        target = self.get(id, version).version
        with self._database.writing() as db:
            if db.execute(
                "SELECT 1 FROM refs WHERE kind = 'model' AND id = ? AND version = ?", (id, alias)
            ).fetchone():
                raise ConflictError(
                    what=f"{alias!r} is a version of it", where=f"model:{id}", remedy="choose another alias"
                )
            db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", (id, alias, target))

    def aliases(self, id: str) -> dict[str, str]:
        """Alias → version of the model ``id``."""
        with self._database.reading() as db:
            return dict(db.execute("SELECT alias, version FROM aliases WHERE id = ? ORDER BY alias", (id,)))

    def record(self, ref: Ref) -> tuple[Ref, bool]:
        """Keep any ref but a model; one that equals a kept one in every field is not kept twice.

        Raises:
            DataError: it is a model, of an unknown type, or would be its own ancestor.
        """
        refuse_model(ref)
        identity = ref.content_digest
        with self._database.writing() as db:
            known = db.execute(
                "SELECT node FROM refs WHERE kind = ? AND id = ? AND identity = ?",
                (ref.kind, ref.id, identity),
            ).fetchone()
            if known is not None:
                return self._ref(db, known[0]), False
            self._insert(db, ref, identity)
            return ref, True

    def resolve(self, name: str) -> Ref:
        """The ref of that name, the newest if several have it.

        Raises:
            NotFoundError: with the nearest known name.
        """
        with self._database.reading() as db:
            return self._ref(db, _found(db, name)[-1])

    def refs(self, kind: str | None = None, *, produced_by: str | None = None) -> list[Ref]:
        """Kept refs, models included, oldest first, of one kind or one producing run if given."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT node FROM refs WHERE kind = coalesce(?1, kind)"
                " AND (?2 IS NULL OR produced_by = ?2) ORDER BY node",
                (kind, produced_by),
            ).fetchall()
            return [self._ref(db, node) for (node,) in rows]

    def lineage(self, name: str) -> list[Ref]:
        """All that the newest ref of that name was made from, each once, parents first.

        Raises:
            NotFoundError: there is no such ref.
            IntegrityError: the graph holds a cycle.
        """
        with self._database.reading() as db:
            start = _found(db, name)[-1]
            nodes = reachable([start], lambda node: _parents(db, node))
            return self._in_order(db, nodes, leave_out=[start])

    def descendants(self, name: str) -> list[Ref]:
        """All that was made from any ref of that name, each once, parents first.

        Raises:
            NotFoundError: there is no such ref.
            IntegrityError: the graph holds a cycle.
        """
        with self._database.reading() as db:
            start: list[Node] = list(_found(db, name))
            return self._in_order(db, reachable(start, lambda node: _children(db, node)), leave_out=start)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._database.close()

    def _in_order(self, db: sqlite3.Connection, nodes: list[Node], *, leave_out: Iterable[Node]) -> list[Ref]:
        omitted = set(leave_out)
        ordered = sorted_parents_first(nodes, lambda node: _parents(db, node))
        return [
            self._ref(db, node) if isinstance(node, int) else plain_ref(node)
            for node in ordered
            if node not in omitted
        ]

    def _insert(self, db: sqlite3.Connection, ref: Ref, identity: str) -> None:
        names = names_of(ref)
        parents = [
            (name, nodes[-1] if (nodes := _nodes(db, name)) else None) for name in dict.fromkeys(ref.parents)
        ]
        start: list[Node] = [name if node is None else node for name, node in parents]
        if any(node in names for node in reachable(start, lambda node: _parents(db, node))):
            raise DataError(
                what="it would be its own ancestor",
                where=ref.key,
                remedy=f"name its true parents (given: {', '.join(ref.parents)})",
            )
        model = ref if isinstance(ref, ModelRef) else None
        cursor = db.execute(
            "INSERT INTO refs (kind, id, type, digest, produced_by, version, stage, identity, body, kept_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                ref.kind,
                ref.id,
                type(ref).__name__,
                ref.digest,
                ref.produced_by,
                model.version if model else None,
                str(model.stage) if model else None,
                identity,
                ref.model_dump_json(),
                self._clock().astimezone(UTC).isoformat(),
            ),
        )
        node = cursor.lastrowid
        db.executemany(
            "INSERT INTO edges (child, place, name, parent) VALUES (?, ?, ?, ?)",
            [(node, place, name, parent) for place, (name, parent) in enumerate(parents)],
        )
        db.executemany(
            "UPDATE edges SET parent = ? WHERE parent IS NULL AND name = ?", [(node, name) for name in names]
        )

    def _ref(self, db: sqlite3.Connection, node: int) -> Ref:
        kind, body = db.execute("SELECT type, body FROM refs WHERE node = ?", (node,)).fetchone()
        try:
            return TYPES[kind].parse(body)
        except (KeyError, ConfigError) as error:
            raise IntegrityError(
                what=f"ref {node} cannot be read", where=str(self.path), remedy="restore the file from a copy"
            ) from error

    def _model(self, db: sqlite3.Connection, node: int) -> ModelRef:
        ref = self._ref(db, node)
        if not isinstance(ref, ModelRef):
            raise IntegrityError(
                what=f"ref {node} is not a model", where=str(self.path), remedy="restore the file from a copy"
            )
        return ref


def _next_version(db: sqlite3.Connection, id: str) -> str:
    versions = [
        row[0] for row in db.execute("SELECT version FROM refs WHERE kind = 'model' AND id = ?", (id,))
    ]
    return str(max((int(version) for version in versions if version.isdecimal()), default=0) + 1)


def _model_nodes(db: sqlite3.Connection, id: str, qualifier: str | None) -> list[int]:
    """Versions of a model that the qualifier (version, alias, digest, or None for all) means, oldest first."""
    rows = db.execute(
        "SELECT node FROM refs WHERE kind = 'model' AND id = ?1 AND (?2 IS NULL OR version = ?2 OR digest = ?2"
        " OR version = (SELECT version FROM aliases WHERE id = ?1 AND alias = ?2)) ORDER BY node",
        (id, qualifier),
    )
    return [row[0] for row in rows]


def _nodes(db: sqlite3.Connection, name: str) -> list[int]:
    """Refs of that name, oldest first; an id that holds an @ goes before a qualifier."""
    kind, rest = split_name(name)
    whole = [
        row[0]
        for row in db.execute("SELECT node FROM refs WHERE kind = ? AND id = ? ORDER BY node", (kind, rest))
    ]
    id, at, qualifier = rest.rpartition("@")
    if whole or not at:
        return whole
    if kind == "model":
        return _model_nodes(db, id, qualifier)
    rows = db.execute(
        "SELECT node FROM refs WHERE kind = ? AND id = ? AND digest = ? ORDER BY node", (kind, id, qualifier)
    )
    return [row[0] for row in rows]


def _found(db: sqlite3.Connection, name: str) -> list[int]:
    nodes = _nodes(db, name)
    if not nodes:
        kind, _ = split_name(name)
        known = [
            f"{kind}:{row[0]}" for row in db.execute("SELECT DISTINCT id FROM refs WHERE kind = ?", (kind,))
        ]
        raise _not_found(repr(name), nearest(name, known))
    return nodes


def _parents(db: sqlite3.Connection, node: Node) -> list[Node]:
    if isinstance(node, str):
        return []
    rows = db.execute("SELECT parent, name FROM edges WHERE child = ? ORDER BY place", (node,))
    return [name if parent is None else parent for parent, name in rows]


def _children(db: sqlite3.Connection, node: Node) -> list[Node]:
    return [row[0] for row in db.execute("SELECT child FROM edges WHERE parent = ? ORDER BY child", (node,))]


def _not_found(what: str, near: str | None) -> NotFoundError:
    return NotFoundError(
        what=f"there is no {what}",
        where="model_registry",
        remedy=f"did you mean {near!r}?" if near else "list what there is",
    )
