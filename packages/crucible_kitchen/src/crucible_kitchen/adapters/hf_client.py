"""What both Hugging Face adapters share: the token, silence, and the clients' errors as this project's."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from crucible_ir import (
    AdapterError,
    ConfigError,
    CrucibleError,
    DataError,
    NotFoundError,
    ServiceError,
    StorageError,
    nearest,
)

__all__ = ["TOKEN_VARIABLE", "HubErrors", "NoProgressBars", "hub_token", "missing_sdk"]

TOKEN_VARIABLE = "HF_TOKEN"
"""The one place a hub token is read from."""

_TRANSPORT = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp"})
_LISTED = re.compile(r"['\"]([^'\"]+)['\"]")


def hub_token() -> str | bool:
    """The token of the environment; False (not None) where there is none, so that no saved login is used."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or False


def missing_sdk(*, group: str, name: str, package: str, extra: str) -> AdapterError:
    """The sentence for an SDK that is not installed."""
    return AdapterError(
        what=f"the adapter {name!r} needs the package {package!r}, which is not installed",
        where=group,
        remedy=f"pip install 'crucible-kitchen[{extra}]'",
    )


def _clean(text: str) -> str:
    """First sentence of a message, without the token and on one line."""
    token = hub_token()
    if isinstance(token, str):
        text = text.replace(token, "***")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:300].rstrip(".")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _gated(where: str, page: str) -> ConfigError:
    if hub_token():
        return ConfigError(
            what=f"{where!r} is gated, and the token in {TOKEN_VARIABLE} has no access to it",
            where=TOKEN_VARIABLE,
            remedy=f"accept its conditions at {page}, or give the token of an account that has",
        )
    return ConfigError(
        what=f"{where!r} is gated, and {TOKEN_VARIABLE} is not set",
        where=TOKEN_VARIABLE,
        remedy=f"accept its conditions at {page} and export {TOKEN_VARIABLE}",
    )


def _http(error: BaseException, where: str) -> CrucibleError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return ConfigError(
            what=f"the hub refused the token in {TOKEN_VARIABLE}"
            if hub_token()
            else "the hub asks for a token",
            where=TOKEN_VARIABLE,
            remedy=f"set {TOKEN_VARIABLE} to a valid token",
        )
    retry_after = getattr(response, "headers", {}).get("Retry-After", "")
    retryable = status is None or status == 429 or status >= 500
    return ServiceError(
        what=f"the hub failed with status {status}" if status else f"the hub failed: {_clean(str(error))}",
        where=where,
        remedy="try again later" if retryable else "",
        retryable=retryable,
        retry_after_s=float(retry_after) if str(retry_after).isdigit() else None,
    )


def _offline(where: str) -> ServiceError:
    return ServiceError(
        what="the hub is switched off (HF_HUB_OFFLINE) and this is not in the cache",
        where=where,
        remedy="unset HF_HUB_OFFLINE once to download it",
    )


def _unreachable(error: BaseException, where: str) -> ServiceError:
    return ServiceError(
        what=f"the hub could not be reached, or the transfer broke off ({_clean(str(error))})",
        where=where,
        remedy="try again; a transfer goes on where it stopped",
        retryable=True,
    )


def _of_hub(error: BaseException, where: str, page: str) -> CrucibleError | None:
    from huggingface_hub import errors as hub

    match error:
        case hub.OfflineModeIsEnabled():
            return _offline(where)
        case hub.GatedRepoError():
            return _gated(where, page)
        case hub.RevisionNotFoundError():
            return NotFoundError(what="no such revision on the hub", where=where, remedy="check revision")
        case hub.RepositoryNotFoundError():
            hint = (
                "check the name"
                if hub_token()
                else f"check the name; if it is private, export {TOKEN_VARIABLE}"
            )
            return NotFoundError(what="no such repository on the hub", where=where, remedy=hint)
        case hub.LocalEntryNotFoundError():
            if any(isinstance(cause, hub.OfflineModeIsEnabled) for cause in _chain(error)):
                return _offline(where)
            return _unreachable(error.__cause__ or error, where)
        case hub.EntryNotFoundError():
            return NotFoundError(
                what="no such file in the repository", where=where, remedy="check the file's name"
            )
        case hub.HFValidationError():
            return ConfigError(what=_clean(str(error)), where=where, remedy="write a hub id as owner/name")
        case hub.HfHubHTTPError():
            return _http(error, where)
    return None


def _of_names(error: BaseException, where: str) -> CrucibleError | None:
    """Errors that ``datasets`` tells apart by text alone: an unknown configuration or split."""
    text = str(error)
    for pattern, what in (
        (r"BuilderConfig '([^']+)' not found", "configuration"),
        (r"Unknown split \"([^\"]+)\"", "split"),
        (r"Bad split: ([^.]+)\.", "split"),
    ):
        if found := re.search(pattern, text):
            there = [name for name in _LISTED.findall(text[found.end() :]) if name != found[1]]
            near = nearest(found[1], there)
            return NotFoundError(
                what=f"no {what} {found[1]!r}; there are {', '.join(map(repr, there)) or 'none'}",
                where=where,
                remedy=f"did you mean {near!r}?" if near else "name one of them",
            )
    if "Config name is missing" in text:
        there = _LISTED.findall(text.split("Example of usage")[0])
        return ConfigError(
            what=f"it has several configurations: {', '.join(there)}",
            where=where,
            remedy="set config to one of them",
        )
    return None


def _of_datasets(error: BaseException, where: str, page: str) -> CrucibleError | None:
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("datasets.")}
    if "DatasetNotFoundError" in names:
        text = str(error)
        if "gated" in text:
            return _gated(where, page)
        return NotFoundError(what=_clean(text), where=where, remedy="check the name and revision")
    if names & {"DataFilesNotFoundError", "EmptyDatasetError"} or type(error).__name__ == "EmptyDatasetError":
        return DataError(
            what="it holds no data files that can be read", where=where, remedy="name another dataset"
        )
    unreadable = any(kind.__module__.partition(".")[0] == "pyarrow" for kind in type(error).__mro__)
    if unreadable or names & {"DatasetGenerationError", "FileFormatError", "DatasetBuildError"}:
        deepest = list(_chain(error))[-1]
        return DataError(
            what=f"its data cannot be read ({_clean(str(deepest))})", where=where, remedy="check the files"
        )
    return None


def _translate(error: Exception, where: str, page: str) -> CrucibleError | None:
    for cause in _chain(error):
        found = _of_hub(cause, where, page) or (
            _of_names(cause, where) if isinstance(cause, ValueError) else None
        )
        if found is not None:
            return found
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                what="no space left for the download",
                where=where,
                remedy="free space, or set HF_HOME elsewhere",
            )
        transport = {kind.__module__.partition(".")[0] for kind in type(cause).__mro__} & _TRANSPORT
        if transport or isinstance(cause, ConnectionError | TimeoutError):
            offline = "offline" in str(cause).lower()
            return _offline(where) if offline else _unreachable(cause, where)
        if isinstance(cause, OSError) and "Consistency check failed" in str(cause):
            return _unreachable(cause, where)
    for cause in _chain(error):
        if (found := _of_datasets(cause, where, page)) is not None:
            return found
    return None


class NoProgressBars:
    """A ``with`` block without progress bars; after it they are as they were. Takes the client's ``utils``."""

    def __init__(self, utils: Any) -> None:
        self._utils = utils
        self._shown = False

    def __enter__(self) -> Self:
        self._shown = not self._utils.are_progress_bars_disabled()
        self._utils.disable_progress_bars()
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            self._utils.enable_progress_bars()


class HubErrors:
    """A ``with`` block in which the clients' errors become NotFoundError, ConfigError, ServiceError, DataError …

    Errors that are already ours, and those that no rule knows, pass unchanged. The original is not shown with the
    new one: its text and request may carry the token.
    """

    def __init__(self, where: str, *, page: str) -> None:
        self._where = where
        self._page = page

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, CrucibleError):
            found = _translate(error, self._where, self._page)
            if found is not None:
                raise found from None
