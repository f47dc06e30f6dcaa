"""A process that uses the Hugging Face adapters as a user's would, driven by the test; also its own main program.

The clients read ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` when they are imported: one process per setting of
them. ``HF_TOKEN`` is read at each call and may change from call to call. Waits between the clients' own attempts are
counted and not waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["HubFailure", "HubProcess"]

_SHORT_S = 0.2


class HubFailure(Exception):
    """The call raised there: class name, text, exit code, whether it may be retried, and the whole traceback."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.kind: str = answer["kind"]
        self.text: str = answer["text"]
        self.exit_code: int | None = answer["exit_code"]
        self.retryable: bool = answer["retryable"]
        self.retry_after_s: float | None = answer["retry_after_s"]
        self.trace: str = answer["trace"]
        super().__init__(f"{self.kind}: {self.text}")


class HubProcess:
    """The process; use it in a ``with`` block and ``call`` it."""

    def __init__(self, *, endpoint: str, home: Path, environment: Mapping[str, str] | None = None) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), **(environment or {})}
        self.waited_s = 0.0
        """Seconds that the clients wanted to wait between attempts, over all calls."""
        self._log = home.with_name(f"{home.name}-{id(self)}.stderr")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crucible_testing.hub_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    @property
    def stderr(self) -> str:
        """What the process has written beside its answers: logs, warnings, progress bars."""
        return self._log.read_text()

    def call(self, what: str, *, token: str | None = None, **arguments: Any) -> Any:
        """Result of one operation, as JSON.

        ``what`` is ``load``, ``check``, ``stream`` (``ref`` and, for stream, ``take``), ``download``, ``snapshot`` or
        ``list_files``.

        Raises:
            HubFailure: it raised there.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, "token": token, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client's process ended: {self.stderr}"
        answer = json.loads(line)
        self.waited_s += answer["waited_s"]
        if "kind" in answer:
            raise HubFailure(answer)
        return answer["result"]


def _answer(what: str, arguments: dict[str, Any]) -> Any:
    from crucible_ir import DatasetRef
    from crucible_kitchen.adapters.hf_datasets import HuggingFaceDatasetStore
    from crucible_kitchen.adapters.hf_hub import HuggingFaceHub

    if what in ("download", "snapshot", "list_files"):
        return getattr(HuggingFaceHub(), what)(**arguments)
    store = HuggingFaceDatasetStore()
    ref = DatasetRef.model_validate(arguments["ref"])
    if what == "check":
        return store.check(ref)
    if what == "stream":
        stream = store.stream(ref)
        rows = [next(stream) for _ in range(arguments["take"])]
        return {"rows": rows, "ref": stream.ref.model_dump(mode="json"), "drops": len(stream.drops)}
    snapshot = store.load(ref)
    return {
        "rows": list(snapshot.rows),
        "at_random": [snapshot.rows[n] for n in (0, -1)],
        "ref": snapshot.ref.model_dump(mode="json"),
        "drops": [[drop.reason, drop.count, drop.first] for drop in snapshot.drops],
    }


class _Waits:
    """Stands in for ``time.sleep``: short sleeps (of a lock that is polled) are slept, longer ones counted alone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleep = time.sleep

    def __call__(self, seconds: float) -> None:
        if seconds < _SHORT_S:
            self._sleep(seconds)
        else:
            self.seconds += seconds


def _main() -> None:
    waits = _Waits()
    time.sleep = waits  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if asked["token"] is not None:
            os.environ["HF_TOKEN"] = asked["token"]
        try:
            answer = {"result": _answer(asked["what"], asked["arguments"])}
        except Exception as error:  # noqa: BLE001 - the boundary of a process: whatever is raised is the answer
            answer = {
                "kind": type(error).__name__,
                "text": str(error),
                "exit_code": getattr(error, "exit_code", None),
                "retryable": getattr(error, "retryable", False),
                "retry_after_s": getattr(error, "retry_after_s", None),
                "trace": traceback.format_exc(),
            }
        answer["waited_s"], waits.seconds = waits.seconds, 0.0
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
