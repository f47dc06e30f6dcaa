"""Sessions: who is there, since when, and how they ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

from crucible_gateway.tinker.bodies import CreateSession, SearchSessions
from crucible_gateway.tinker.store import StateStore
from crucible_ir import NotFoundError

__all__ = ["SessionBook", "SessionEndedError"]


class SessionEndedError(NotFoundError):
    """The session has ended; told with status 410, at which the SDK stops its heartbeat."""


class SessionBook:
    """Sessions by id. A record is a JSON object: ``created``, ``status``, ``detail`` and what the client said."""

    def __init__(self, store: StateStore, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._records = dict(store.records("sessions"))
        now = clock()
        self._seen = dict.fromkeys(self._records, now)

    def create(self, body: CreateSession) -> str:
        """A new session's id."""
        id = str(uuid4())
        record = {**body.model_dump(mode="json"), "created": self._clock().isoformat(), "status": "active"}
        self._records[id] = record
        self._store.put("sessions", id, "", record)
        self._seen[id] = self._clock()
        return id

    def find(self, id: str) -> dict[str, Any]:
        """The record of a session.

        Raises:
            NotFoundError: there is none.
        """
        record = self._records.get(id)
        if record is None:
            raise NotFoundError(
                what=f"there is no session {id!r}", where="session_id", remedy="create a session first"
            )
        return record

    def touch(self, id: str) -> None:
        """The session gave a sign of life.

        Raises:
            NotFoundError: there is none.
            SessionEndedError: it has ended.
        """
        if self.find(id)["status"] != "active":
            raise SessionEndedError(
                what=f"the session {id} has ended", where="session_id", remedy="create another"
            )
        self._seen[id] = self._clock()

    def change(self, id: str, **values: Any) -> None:
        """Change fields of a record; raises as ``find``."""
        self._records[id] = {**self.find(id), **values}
        self._store.put("sessions", id, "", self._records[id])

    def last_seen(self, id: str) -> datetime:
        """When the session last gave a sign of life, or when the server started."""
        return self._seen[id]

    def silent(self, seconds: float) -> list[str]:
        """Active sessions without a sign of life for so long."""
        now = self._clock()
        return [id for id in self.active() if (now - self._seen[id]).total_seconds() > seconds]

    def ended(self, seconds: float) -> list[str]:
        """Sessions that ended at least so long ago."""
        now = self._clock()
        finished = [
            (id, record["finished"]) for id, record in self._records.items() if record.get("finished")
        ]
        return [
            id for id, when in finished if (now - datetime.fromisoformat(when)).total_seconds() >= seconds
        ]

    def forget(self, id: str) -> None:
        """Drop the record of a session; one that is not there is no error."""
        self._store.drop("sessions", id)
        self._records.pop(id, None)
        self._seen.pop(id, None)

    def active(self) -> list[str]:
        """Sessions that have not ended."""
        return [id for id, record in self._records.items() if record["status"] == "active"]

    def listed(self, limit: int, offset: int) -> list[str]:
        """Ids, the newest first."""
        return [id for id, _ in self._newest_first()][offset : offset + limit]

    def search(self, body: SearchSessions) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, str] | None]:
        """Sessions that match, the newest first, and where the next page starts."""
        words = (body.display_name or "").lower().split()

        def matches(id: str, record: dict[str, Any]) -> bool:
            metadata = record.get("user_metadata") or {}
            if any(metadata.get(key) != value for key, value in body.user_metadata.items()):
                return False
            named = bool(words) and all(word in (record.get("display_name") or "").lower() for word in words)
            if body.session_id is None:
                return named or not words
            return id == body.session_id or named

        found = [(id, record) for id, record in self._newest_first() if matches(id, record)]
        if body.cursor is not None:
            after = (body.cursor.get("last_created_at", ""), body.cursor.get("last_session_id", ""))
            found = [item for item in found if (item[1]["created"], item[0]) < after]
        page, rest = found[: body.limit], found[body.limit :]
        if not rest:
            return page, None
        return page, {"last_created_at": page[-1][1]["created"], "last_session_id": page[-1][0]}

    def _newest_first(self) -> list[tuple[str, dict[str, Any]]]:
        return sorted(self._records.items(), key=lambda item: (item[1]["created"], item[0]), reverse=True)
