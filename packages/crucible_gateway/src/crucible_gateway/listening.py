"""A socket that listens, made before anything is loaded, so that a port in use is told at once."""

from __future__ import annotations

import errno
import socket

from crucible_ir import ConfigError

__all__ = ["address_of", "listen"]

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens at ``host``; port 0 takes a free one.

    Raises:
        ConfigError: no such port or address, or something else listens there.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(
            what=f"{port} is no port", where="--port", remedy="give 1 to 65535, or 0 for a free one"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise ConfigError(
                what=f"something listens at port {port} of {host} already",
                where="--port",
                remedy="end it, or give another port; 0 takes a free one",
            ) from error
        if number == errno.EACCES:
            raise ConfigError(
                what=f"this user may not listen at port {port}", where="--port", remedy="give 1024 or more"
            ) from error
        raise ConfigError(
            what=f"this machine cannot listen at {host!r} ({error})",
            where="--host",
            remedy="give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them",
        ) from error


def address_of(listening: socket.socket) -> str:
    """``http://HOST:PORT`` of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
