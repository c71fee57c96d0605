"""Whether a port can be listened on."""

from __future__ import annotations

import socket

from corral.errors import ConfigurationError


def refuse_taken_port(host: str, port: int, *, option: str) -> None:
    """Say it before a server does, which exits with a log line.

    Args:
        host: Bind address.
        port: Of TCP.
        option: What chooses another, for people.

    Raises:
        ConfigurationError: Somebody listens there, or the address isn't this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port}: {error.strerror or error}; choose another with {option}"
        ) from None
