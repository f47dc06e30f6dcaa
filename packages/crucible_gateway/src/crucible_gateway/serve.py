"""``crucible serve``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crucible_gateway.listening import address_of, listen
from crucible_ir import ConfigError, nearest
from crucible_kitchen.cli.options import AsJson, HomeOption
from crucible_kitchen.cli.output import print_json, print_line

if TYPE_CHECKING:
    from crucible_gateway.tinker.settings import TinkerSettings
    from crucible_kitchen.manifests.manifest import Manifest
    from crucible_kitchen.manifests.ports import ManifestPorts
    from crucible_train.ports import TrainingBackend

__all__ = ["run_server", "serve"]

_HOST, _PORT, _MANIFEST, _URL = "127.0.0.1", 8040, "offline", "http://127.0.0.1:8040"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    action: Annotated[
        str, typer.Argument(help="tinker: serve the Tinker API; status: ask a server how it is.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Folder or hub id of a base model, or NAME=FOLDER. May stand several times."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=_HOST)] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default=str(_PORT))
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Environment variable with the key that clients send.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder of the server's state; else HOME/gateway.")
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            "--manifest",
            "-m",
            help="Profile or manifest whose training backend serves.",
            show_default=_MANIFEST,
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help="status: where the server is.", show_default=_URL)] = None,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> int:
    """Serve models to programs written for the Tinker SDK, or tell how a server is."""
    tinker = {"model": model, "host": host, "port": port, "state": state, "manifest": manifest, "home": home}
    _require_own(action, {"tinker": tinker, "status": {"url": url}})
    key = _key(api_key_env)
    if action == "status":
        return _status(_URL if url is None else url, key, as_json=as_json)
    host = _HOST if host is None else host
    _require_guarded(host, key)
    root = _root(home)
    settings = _settings(model or [], host=host, key=key, state=state or root / "gateway")
    chosen = _manifest(_MANIFEST if manifest is None else manifest)
    _require_free(settings)
    with listen(host, _PORT if port is None else port) as listening:
        backend: TrainingBackend = _ports(chosen, root).get("training_backend")
        _require_models(backend, settings)
        return run_server(backend, settings, listening=listening, as_json=as_json)


def _require_own(action: str, options: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse an action that is not among ``options``, and options of another one; None was not given."""
    if action not in options:
        near = nearest(action, options)
        remedy = f"did you mean {near!r}?" if near else f"one of {', '.join(options)}"
        raise ConfigError(what=f"unknown action {action!r}", where="serve", remedy=remedy)
    for other, values in options.items():
        names = [f"--{name}" for name, value in values.items() if value is not None]
        if names and other != action:
            one = len(names) == 1
            raise ConfigError(
                what=f"{', '.join(names)} belong{'s' if one else ''} to crucible serve {other}",
                where=f"serve {action}",
                remedy=f"leave {'it' if one else 'them'} out",
            )


def _require_guarded(host: str, key: str | None) -> None:
    """Refuse to listen where others can reach the server and no key is asked for."""
    if host not in _LOOPBACK and key is None:
        raise ConfigError(
            what=f"{host} can be reached by others, and no key is asked for",
            where="--host",
            remedy="give --api-key-env NAME, or listen on 127.0.0.1",
        )


def _key(variable: str | None) -> str | None:
    from crucible_gateway.tinker.access import require_usable_key

    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            what=f"the environment variable {variable} is not set",
            where="--api-key-env",
            remedy="put a key of your own into it, for instance tml- and some random letters",
        )
    return require_usable_key(key, variable)


def _root(home: Path | None) -> Path:
    from crucible_kitchen.runs.home import Home

    return (Home(home) if home is not None else Home.default(os.environ)).root


def _manifest(name: str) -> Manifest:
    """The manifest; its local engine gives log-probabilities at every position, as the service does."""
    from crucible_kitchen.manifests.loading import load_manifest

    chosen = load_manifest(name)
    choice = chosen.ports.get("training_backend")
    if choice is None or choice.adapter != "local" or "logprobs_at" in choice.options:
        return chosen
    options = {**choice.options, "logprobs_at": "all"}
    ports = {**chosen.ports, "training_backend": choice.model_copy(update={"options": options})}
    return chosen.model_copy(update={"ports": ports})


def _ports(manifest: Manifest, root: Path) -> ManifestPorts:
    from crucible_kitchen.manifests.ports import ManifestPorts

    return ManifestPorts(manifest, home=root, environ=os.environ)


def _settings(models: list[str], *, host: str, key: str | None, state: Path) -> TinkerSettings:
    from crucible_gateway.tinker.served import served_model
    from crucible_gateway.tinker.settings import TinkerSettings

    if not models:
        raise ConfigError(
            what="no model is named", where="--model", remedy="give a folder, a hub id, or NAME=FOLDER"
        )
    local = host in _LOOPBACK
    served = tuple(served_model(text, local=local) for text in models)
    names = [model.name for model in served]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(what=f"{twice[0]} is served twice", where="--model", remedy="name it once")
    return TinkerSettings(models=served, state=state.resolve(), api_key=key, hosts=_LOOPBACK if local else ())


def _require_free(settings: TinkerSettings) -> None:
    """Refuse a state folder that another server uses, or that cannot be written, with a StorageError."""
    from crucible_gateway.tinker.store import StateStore

    StateStore(settings.state).close()


def _require_models(backend: TrainingBackend, settings: TinkerSettings) -> None:
    """Look at every model's config, so that a wrong one is told now and not to the first client."""
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import LoraConfig

    least = LoraConfig(rank=1, train_mlp=False, train_unembed=False)  # whatever a client may ask for is more
    for model in settings.models:
        backend.check(
            TrainingSpec(
                base_model=model.source, lora=least, seed=0, checkpoint_dir=settings.state / "unused"
            )
        )


def run_server(
    backend: TrainingBackend, settings: TinkerSettings, *, listening: socket.socket, as_json: bool
) -> int:
    """Serve until the process is told to end; says where, once it answers."""
    import uvicorn

    from crucible_gateway.tinker.app import tinker_app

    app = tinker_app(backend, settings)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)

    class Announced(uvicorn.Server):
        """Says where it listens, once it does."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                _announce(address_of(listening), settings, as_json=as_json)

    server = Announced(config)
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _announce(address: str, settings: TinkerSettings, *, as_json: bool) -> None:
    names = [model.name for model in settings.models]
    if as_json:
        print_json({"url": address, "models": names, "pid": os.getpid(), "state": str(settings.state)})
        return
    print_line(f"serving {', '.join(names)} at {address}")
    print_line(f"TINKER_BASE_URL={address} TINKER_API_KEY={'…' if settings.api_key else 'tml-local'}")


def _status(url: str, key: str | None, *, as_json: bool) -> int:
    from crucible_gateway.tinker.status import fetch_status

    found = fetch_status(url, key)
    if as_json:
        print_json(found)
        return 0
    width = max(len(name) for name in found)
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:.1f}" for key, number in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print_line(f"{name:<{width}}  {value}")
    return 0
