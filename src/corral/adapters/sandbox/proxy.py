"""The way out of the set-up phase: an HTTP proxy that connects to allow-listed hosts, and to nothing else.

The sandbox has no network of its own, so the proxy's listening socket is made inside of it: a few lines of Python
(``LISTEN_INSIDE``) open it in the sandbox's network namespace and pass its descriptor out, and the worker accepts on
it. Nothing of the proxy runs where the untrusted code is, and that code has no other address to talk to.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from corral.errors import ConfigurationError

PORT = 3128
ADDRESS = f"http://127.0.0.1:{PORT}"
#: Started in front of the command: ``python -c LISTEN_INSIDE <descriptor or socket path> <command>...``
LISTEN_INSIDE = f"""
import array, os, socket, sys
where = sys.argv[1]
if where.isdigit():
    channel = socket.socket(fileno=int(where))
else:
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(where)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", {PORT}))
listener.listen(128)
passed = array.array("i", [listener.fileno()])
channel.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
channel.recv(1)
channel.close()
listener.close()
os.execvp(sys.argv[2], sys.argv[2:])
"""

_HEAD_BYTES = 32 * 1024
_HEAD_S = 30.0
_CONNECT_S = 30.0
_CHUNK_BYTES = 64 * 1024
_CONNECTIONS = 128
_DEFAULT_PORTS = frozenset({80, 443})
_HOP_HEADERS = frozenset({b"proxy-connection", b"proxy-authorization", b"connection", b"keep-alive"})


def environment() -> dict[str, str]:
    """Return the variables by which programs find the proxy."""
    return {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), ADDRESS),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
    }


@dataclass(frozen=True, slots=True)
class _Allowed:
    host: str
    ports: frozenset[int]

    def covers(self, host: str, port: int) -> bool:
        if port not in self.ports:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


class AllowList:
    """Where the set-up phase may connect to."""

    def __init__(self, hosts: Iterable[str] = (), *, networks: Iterable[str] = ()) -> None:
        """Take the list.

        Args:
            hosts: ``name`` (ports 80 and 443), ``name:port``, or ``*.name`` for all names below.
            networks: Addresses that are not public (``10.1.0.0/16``) but may be reached, for a registry of one's own.
                Any other private, loopback or link-local address is refused, whatever name leads to it: that is where
                clouds keep their credentials.

        Raises:
            ConfigurationError: An entry is none of these.
        """
        self._hosts = [_allowed(entry) for entry in hosts]
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise ConfigurationError(f"expected networks like 10.1.0.0/16: {error}") from error

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def covers(self, host: str, port: int) -> bool:
        """Whether a name may be connected to."""
        host = host.rstrip(".").lower()
        return any(allowed.covers(host, port) for allowed in self._hosts)

    def covers_address(self, address: str) -> bool:
        """Whether an address that a covered name resolved to may be connected to."""
        number = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
            number = number.ipv4_mapped
        if any(number in network for network in self._networks):
            return True
        return number.is_global and not number.is_multicast


def _allowed(entry: str) -> _Allowed:
    host, separator, port = entry.strip().lower().rpartition(":")
    if not separator:
        host, port = port, ""
    name = host.removeprefix("*.")
    if not name or "*" in name or "/" in name or (separator and not port.isdigit()):
        raise ConfigurationError(
            f"expected a host like registry.example.org, *.example.org or name:8443, got {entry!r}"
        )
    return _Allowed(host, frozenset({int(port)}) if port else _DEFAULT_PORTS)


class _Refused(Exception):
    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class AllowListProxy:
    """Serves one sandboxed run."""

    def __init__(self, allowed: AllowList, on_refused: Callable[[str], None]) -> None:
        """Make a proxy; ``on_refused`` gets a line for people about each refused connection."""
        self._allowed = allowed
        self._on_refused = on_refused
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Accept on ``listener`` (taken over) within the block; afterwards nothing of it is open."""
        listener.setblocking(False)
        server = await asyncio.start_server(self._accept, sock=listener, limit=_HEAD_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except _Refused as refused:
            self._on_refused(refused.why)
            with contextlib.suppress(OSError):
                body = f"{refused.why}\n".encode()
                head = f"HTTP/1.1 {refused.status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError, ValueError):
            pass  # the program's own connection: whatever it did to it concerns nobody else
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) > _CONNECTIONS:
            raise _Refused("503 Service Unavailable", "too many connections at once")
        async with asyncio.timeout(_HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
        line, _, headers = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        if not version.startswith("HTTP/1."):
            raise _Refused("505 HTTP Version Not Supported", f"unknown protocol {version[:20]!r}")
        if method == "CONNECT":
            parts = urlsplit(f"//{target}")
        else:
            parts = urlsplit(target)
            if parts.scheme != "http":
                raise _Refused("400 Bad Request", "expected CONNECT or an http:// address")
        host, port = parts.hostname or "", parts.port or 80
        upstream_reader, upstream_writer = await self._connect(host, port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = parts._replace(scheme="", netloc="").geturl() or "/"
                kept = [row for row in headers.split(b"\r\n") if row.partition(b":")[0].lower() not in _HOP_HEADERS]
                upstream_writer.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode("latin-1"))
                upstream_writer.write(b"\r\n".join(kept))
            await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))
        finally:
            upstream_writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._allowed.covers(host, port):
            raise _Refused("403 Forbidden", f"{host}:{port} is not in CORRAL_SANDBOX_SETUP_HOSTS")
        addresses = await _addresses(host, port)
        allowed = [address for address in addresses if self._allowed.covers_address(address)]
        if not allowed:
            raise _Refused("403 Forbidden", f"{host} has the address {addresses[0]}, which is not a public one")
        for address in allowed:
            with contextlib.suppress(OSError, TimeoutError):
                # By the address that was checked: the name could lead elsewhere when it is looked up again.
                async with asyncio.timeout(_CONNECT_S):
                    return await asyncio.open_connection(address, port)
        raise _Refused("502 Bad Gateway", f"{host}:{port} can't be reached")


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass  # a name, then
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _Refused("502 Bad Gateway", f"{host} can't be resolved: {error}") from error
    return [str(place[0]) for *_, place in found]


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        target.write(chunk)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


async def receive_listener(channel: socket.socket) -> socket.socket | None:
    """Wait for the socket that ``LISTEN_INSIDE`` passes; None when the other end closed without one."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    readable = asyncio.Event()
    loop.add_reader(channel, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(channel)
    size = array.array("i").itemsize
    try:
        _, passed, *_ = channel.recvmsg(1, socket.CMSG_SPACE(size))
    except OSError:
        return None
    for level, kind, data in passed:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= size:
            listener = socket.socket(fileno=array.array("i", data[:size])[0])
            with contextlib.suppress(OSError):
                channel.send(b".")
            return listener
    return None


async def serve_run(channel: socket.socket, allowed: AllowList, on_output: Callable[[bytes], None]) -> None:
    """Serve one run, until cancelled, on the socket that comes over ``channel``; refusals go to its output."""
    listener = await receive_listener(channel)
    if listener is not None:
        proxy = AllowListProxy(allowed, lambda why: on_output(f"[network: {why}]\n".encode()))
        async with proxy.serving(listener):
            await asyncio.Event().wait()
