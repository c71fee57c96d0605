"""One connection on which every caller's command is written at once, and answers are matched in order.

This is the hot path. A pool costs a connection hand-over per command, and gathering commands into batches costs a loop
turn; writing each command the moment it is ready costs neither (measured: ``docs/decisions``). redis-py has no such
client, so this one is ours; what it needs of a client beyond that (URLs, Sentinel, Cluster lookup) it takes from
redis-py through ``Connector``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hiredis

from corral.errors import StoreError, StoreUnavailable
from corral.wire.refusals import code_of, read_refusal

logger = logging.getLogger("corral.wire")

Part = str | bytes | int | float
Reply = Any
"""str (bytes where they are not decoded), int, None, ``ReplyError``, or a list of replies."""

ReplyError = hiredis.ReplyError

#: A command that has had no answer for this long means that the connection is dead (a Redis that is busy with one
#: script for longer than this is not usable either).
ANSWER_TIMEOUT_S = 8.0
CONNECT_TIMEOUT_S = 3.0
_BACKOFF_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)


#: Seconds after which a server that still refuses is told of again.
_TELL_AGAIN_S = 60.0


class ConnectionLost(StoreUnavailable):
    """The connection broke before the answer came: the command may or may not have been carried out."""


class NotConnected(StoreUnavailable):
    """There is no connection to Redis now; nothing was sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where to connect and what to say first."""

    host: str | None = None
    port: int = 6379
    unix_path: str | None = None
    ssl_context: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0

    def __str__(self) -> str:
        return self.unix_path or f"{self.host}:{self.port}"


Connector = Callable[[], Awaitable[Endpoint]]
"""Says where the master is now; asked before every connection, so that a fail-over is followed."""


class Outage:
    """Tells of each outage once, whatever number of connections it breaks, and of a server that refuses now and then.

    It lasts from the first that is cut off to the last that is back. The connections of one process don't all break at
    the same instant, and the first may be back before the last is broken: an end is believed when nothing broke for a
    while.
    """

    #: Seconds without a further break after which an outage is told as over.
    settled_s = 0.25

    def __init__(self) -> None:
        self._began = 0.0
        self._ended = 0.0
        self._away: set[object] = set()
        self._settling: asyncio.TimerHandle | None = None
        self._refusals: dict[str, float] = {}

    def refused(self, failure: StoreError) -> None:
        """Tell that the server answers and does not do what it is asked; of each reason once a minute."""
        said = str(failure)
        now = time.monotonic()
        if now - self._refusals.get(said, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            recent = {other: at for other, at in self._refusals.items() if now - at < _TELL_AGAIN_S}
            self._refusals = {**recent, said: now}
            level = logging.WARNING if isinstance(failure, StoreUnavailable) else logging.ERROR
            logger.log(level, "%s; trying again until it is mended", said.removesuffix("."))

    def began(self, pipe: object, error: BaseException | None) -> None:
        """Note that a connection is cut off."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        elif not self._away:
            self._began = time.monotonic()
            logger.warning("Redis is away (%s); trying again until it is back", error or "connection closed")
        self._away.add(pipe)

    def ended(self, pipe: object) -> None:
        """Note that a connection is there again."""
        if pipe in self._away:
            self._away.remove(pipe)
            if not self._away:
                self._ended = time.monotonic()
                self._settling = asyncio.get_running_loop().call_later(self.settled_s, self._tell_end)

    def forget(self, pipe: object) -> None:
        """Note that a connection is wanted no longer."""
        self._away.discard(pipe)
        if self._settling is not None:
            self._settling.cancel()
            self._tell_end()

    def _tell_end(self) -> None:
        self._settling = None
        logger.warning("Redis is back after %.1f s", self._ended - self._began)


def pack(*parts: Part) -> bytes:
    """Encode one command as RESP."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]
    return packed


class _Told:
    """Takes the place of a future for a caller that wants the answer at once."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[Reply | None, BaseException | None], None]) -> None:
        self._callback = callback

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        self._callback(reply, None)

    def set_exception(self, error: BaseException) -> None:
        self._callback(None, error)

    def exception(self) -> None:
        """A future's error is looked at so that nobody complains; here there is nobody."""


class _Answer(asyncio.Future[Reply]):
    """A future whose waiting task goes on in the very turn of the loop that reads the answer.

    asyncio's own has the loop call its waiter in the next turn: where each answer leads to the next command, that is
    one more look at the selector for each job (``docs/decisions``, 31). A waiter other than a task's ``await`` is told
    as usual. The result may be set by the loop's own callbacks only, never from within a task.
    """

    __slots__ = ("_context", "_waiter")
    _waiter: Callable[[Any], object]
    _context: contextvars.Context

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None) -> None:
        if context is None or self.done() or hasattr(self, "_waiter"):
            super().add_done_callback(fn, context=context)
        else:  # a task that awaits this: nobody else gives a context
            self._waiter = fn
            self._context = context

    def set_result(self, result: Reply, /) -> None:
        _set_result(self, result)
        try:
            waiter = self._waiter
        except AttributeError:
            return  # nobody waits yet
        del self._waiter
        self._context.run(waiter, self)

    def set_exception(self, exception: type | BaseException, /) -> None:
        super().set_exception(exception)
        self._tell_later()

    def cancel(self, msg: object = None) -> bool:
        if not super().cancel(msg):
            return False
        self._tell_later()
        return True

    def _tell_later(self) -> None:
        if hasattr(self, "_waiter"):
            self.get_loop().call_soon(self._waiter, self, context=self._context)
            del self._waiter


_set_result = asyncio.Future.set_result  # looked up once: every answer passes here


class _Protocol(asyncio.Protocol):
    """Feeds what comes in to hiredis and hands each answer to the oldest waiting future."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_push: Callable[[Reply], None] | None, *, decode: bool
    ) -> None:
        self.make_future: Callable[[], asyncio.Future[Reply]] = loop.create_future
        #: For a command that finds no other one unanswered: where answers come in batches there is nothing to win, nor
        #: with uvloop, which calls what is to be called soon before it looks at its sockets again.
        self.make_lone_future: Callable[[], asyncio.Future[Reply]] = (
            partial(_Answer, loop=loop) if isinstance(loop, asyncio.SelectorEventLoop) else loop.create_future
        )
        self._on_push = on_push
        self._reader = hiredis.Reader(
            encoding="utf-8" if decode else None, errors="surrogateescape", replyError=ReplyError
        )
        self.pending: deque[asyncio.Future[Reply] | _Told] = deque()
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[BaseException | None] = loop.create_future()
        self.heard_at = time.monotonic()
        #: Set the moment the connection is gone: what would be written from then on would never be answered.
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in {socket.AF_INET, socket.AF_INET6}:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A peer that vanished without a word is noticed within about ten seconds.
            for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 2)):
                if hasattr(socket, option):
                    raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        reader = self._reader
        pending = self.pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if self._on_push is not None and not pending:
                    self._on_push(reply)
                    continue
                future = pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            logger.error("Redis sent what is not its protocol: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.closed.done():
            self.closed.set_result(exc)
        while self.pending:
            future = self.pending.popleft()
            if not future.done():
                future.set_exception(ConnectionLost("The connection to Redis broke before its answer came."))
                # A caller that was cancelled never asks for it.
                future.exception()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Pipe:
    """A connection that many callers share, and that comes back by itself.

    Args:
        connector: Where to connect.
        name: ``CLIENT SETNAME``; BullMQ lists workers by it.
        on_connect: Commands to send on every new connection before anything else, for example ``SCRIPT LOAD``.
        outage: Shared by the connections of one process, so that an outage is told once.
        answer_timeout: Seconds of silence, with an answer due, after which the connection is given up; None for
            blocking commands, which watch over themselves.
        on_push: For a subscription: gets what comes without being asked for.
        decode: Whether strings in replies are text; else they are bytes.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        name: str | None = None,
        on_connect: Sequence[bytes] = (),
        outage: Outage | None = None,
        answer_timeout: float | None = ANSWER_TIMEOUT_S,
        on_push: Callable[[Reply], None] | None = None,
        decode: bool = True,
    ) -> None:
        self._connector = connector
        self._name = name
        self._on_connect = on_connect
        self._outage = outage or Outage()
        self._answer_timeout = answer_timeout
        self._on_push = on_push
        self._decode = decode
        self._protocol: _Protocol | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._connected = asyncio.Event()
        self._closing = False
        self._dropped = False
        #: How many connections there have been; a caller that sees it change has been cut off in between.
        self.generation = 0
        #: Called, in the loop, after every new connection but the first.
        self.on_reconnect: list[Callable[[], None]] = []

    def refused(self, failure: StoreError) -> None:
        """Note that the server refuses what it is asked, and that it will be asked again."""
        self._outage.refused(failure)

    @property
    def connected(self) -> bool:
        """Whether a command can be written now."""
        return self._protocol is not None and not self._protocol.lost

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreUnavailable: Nothing answers at the address.
            StoreAuthenticationFailed: The user or password was refused.
        """
        await self._connect()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="corral-pipe")

    async def close(self) -> None:
        """Close the connection; what was not answered fails."""
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._outage.forget(self)
        self._connected.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(protocol.closed, 1.0)

    def drop(self) -> None:
        """Break the connection on purpose; it comes back by itself."""
        if self._protocol is not None:
            self._dropped = True
            self._protocol.abort()

    async def wait_connected(self) -> None:
        """Return when a command can be written."""
        await self._connected.wait()
        while not self.connected:
            await asyncio.sleep(0)  # it has just been lost, and our own task has not had its turn
            await self._connected.wait()

    def send(self, command: bytes) -> asyncio.Future[Reply]:
        """Write one packed command now.

        Returns:
            A future of the reply; a ``ReplyError`` is a reply too. It fails with ``ConnectionLost``.

        Raises:
            StoreUnavailable: There is no connection; nothing was written.
        """
        protocol = self._protocol
        if protocol is None or protocol.lost:
            raise NotConnected
        idle = not protocol.pending
        future = protocol.make_lone_future() if idle else protocol.make_future()
        protocol.pending.append(future)
        if idle:
            protocol.heard_at = time.monotonic()
            if self._watchdog is None and self._answer_timeout is not None:
                self._watch()
        protocol.transport.write(command)  # type: ignore[union-attr]
        return future

    def send_for(self, command: bytes, callback: Callable[[Reply | None, BaseException | None], None]) -> None:
        """Write one packed command now, and have its answer in the very turn of the loop that reads it.

        A future costs its waiter two more turns of the loop, which is felt where one answer leads to the next command.

        Args:
            callback: Gets the reply, or the error when the connection broke; must not raise, nor take long.

        Raises:
            StoreUnavailable: There is no connection; nothing was written, and the callback is not called.
        """
        future = self.send(command)
        pending = self._protocol.pending  # type: ignore[union-attr]  # send has just used it
        pending[-1] = _Told(callback)
        future.cancel()

    def send_many(self, commands: bytes, count: int) -> list[asyncio.Future[Reply]]:
        """Write ``count`` packed commands in one piece.

        Raises:
            StoreUnavailable: There is no connection; nothing was written.
        """
        first = self.send(commands)
        protocol: _Protocol = self._protocol  # type: ignore[assignment]  # send has just used it
        futures: list[asyncio.Future[Reply]] = [first]
        for _ in range(count - 1):
            future = protocol.make_future()
            protocol.pending.append(future)
            futures.append(future)
        return futures

    async def execute(self, *parts: Part) -> Reply:
        """Send one command and return its reply.

        Raises:
            StoreUnavailable: No connection, or it broke.
            StoreError: Redis answered with an error.
        """
        reply = await self.send(pack(*parts))
        if isinstance(reply, ReplyError):
            raise reply_failure(reply)
        return reply

    # --- the connection's life

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        endpoint = await self._connector()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                make = partial(_Protocol, loop, self._on_push, decode=self._decode)
                if endpoint.unix_path is not None:
                    _, protocol = await loop.create_unix_connection(make, endpoint.unix_path)
                else:
                    _, protocol = await loop.create_connection(
                        make,
                        endpoint.host or "127.0.0.1",
                        endpoint.port,
                        ssl=endpoint.ssl_context,
                    )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            raise StoreUnavailable(
                f"Redis can't be reached at {endpoint}: {_why_not(error)}. Is it running, and is REDIS_URL right?"
            ) from error
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._greet(protocol, endpoint)
        except BaseException as error:
            protocol.abort()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"What listens at {endpoint} does not answer as Redis does.") from error
            raise
        self._protocol = protocol
        self.generation += 1
        self._connected.set()
        self._outage.ended(self)

    async def _greet(self, protocol: _Protocol, endpoint: Endpoint) -> None:
        commands: list[bytes] = []
        if endpoint.password is not None:
            user = (endpoint.username,) if endpoint.username else ()
            commands.append(pack("AUTH", *user, endpoint.password))
        if endpoint.database:
            commands.append(pack("SELECT", endpoint.database))
        if self._name:
            commands.append(pack("CLIENT", "SETNAME", self._name))
        commands.extend(self._on_connect)
        if not commands:
            commands.append(pack("PING"))
        futures = [protocol.make_future() for _ in commands]
        protocol.pending.extend(futures)
        protocol.transport.write(b"".join(commands))  # type: ignore[union-attr]
        for reply in await asyncio.gather(*futures):
            # MISCONF, which PING is answered with when a save failed, is about writes only.
            if isinstance(reply, ReplyError) and code_of(str(reply)) != "MISCONF":
                raise reply_failure(reply)

    async def _supervise(self) -> None:
        attempt = 0
        while not self._closing:
            if self._protocol is not None:
                error = await asyncio.shield(self._protocol.closed)
                self._protocol = None
                self._connected.clear()
                if not self._dropped:
                    self._outage.began(self, error)
                self._dropped = False
                attempt = 0
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1
            try:
                await self._connect()
            except StoreError as error:
                self._outage.began(self, error)
                continue
            except Exception as error:
                # Whatever it is, the connection must come back when it can.
                self._outage.began(self, error)
                logger.exception("connecting to Redis failed in an unexpected way")
                continue
            for callback in list(self.on_reconnect):
                callback()

    def _watch(self) -> None:
        """Give up a connection whose answer is overdue."""
        self._watchdog = None
        protocol = self._protocol
        if protocol is None or not protocol.pending or self._answer_timeout is None:
            return
        silent = time.monotonic() - protocol.heard_at
        if silent >= self._answer_timeout:
            logger.warning("Redis has not answered for %.1f s: connecting anew", silent)
            protocol.abort()
            return
        self._watchdog = asyncio.get_running_loop().call_later(self._answer_timeout - silent + 0.05, self._watch)


def _why_not(error: OSError) -> str:
    """Why there is no connection."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"  # asyncio names the address once more in its place
    return error.strerror or str(error)


def reply_failure(error: hiredis.ReplyError) -> StoreError:
    """What Redis's own error means, as an error of ours."""
    said = str(error)
    return read_refusal(said, follows=True) or StoreError(f"Redis answered: {said}")
