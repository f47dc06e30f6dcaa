"""LoRA adapters on a vLLM server, under names that stand for their content."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import PurePath

from crucible_ir.errors import ConfigError
from crucible_kitchen.adapters.vllm_server import VllmServer

__all__ = ["VllmAdapters"]

_SHOWN = 16


class VllmAdapters:
    """Adapters that this program put on a server; the last ``keep`` of them stay there.

    A name holds the digest of the weights, so that one name never means two adapters: the server's prefix cache and
    whoever samples under an older name keep what they have.
    """

    def __init__(self, server: VllmServer, *, stem: str = "crucible", keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(what=f"keep = {keep}", where="vLLM adapters", remedy="keep at least 1")
        self._server = server
        self._stem = stem
        self._keep = keep
        self._loaded: OrderedDict[str, None] = OrderedDict()

    def serve(self, folder: PurePath, digest: str) -> str:
        """The name under which the server has the peft adapter in ``folder``, a path on the server's machine.

        Those that were asked for longest ago are unloaded; finish what samples under them first.

        Raises:
            ConfigError, ServiceError: as ``VllmServer.load_adapter``.
        """
        name = f"{self._stem}-{digest.rpartition(':')[2][:_SHOWN]}"
        if name not in self._loaded:
            self._server.load_adapter(name, str(folder))
        self._loaded[name] = None
        self._loaded.move_to_end(name)
        while len(self._loaded) > self._keep:
            oldest, _ = self._loaded.popitem(last=False)
            self._server.unload_adapter(oldest)
        return name

    def clear(self) -> None:
        """Unload all of them."""
        while self._loaded:
            name, _ = self._loaded.popitem(last=False)
            self._server.unload_adapter(name)
