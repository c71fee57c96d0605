"""The limit: BullMQ's own scripts, replayed by the least client that can do it.

No leases to renew, no types, no errors to handle, no waiting for work: a connection, callbacks, and the commands
written the moment they are ready, as bytes prepared beforehand where they do not change. What this reaches is what the
scripts and the server allow one connection from CPython; the distance to it is what a real client costs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bullmq
import hiredis
import msgpack
import protocol
import tally

_SCRIPTS = Path(bullmq.__file__).parent / "commands"
_BASE = f"bull:{tally.QUEUE}:"
_TOKEN = "limit:0"  # noqa: S105 - names who holds a lock
_LOCK_MS = 30_000


def _bulk(value: str | bytes | int) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def _keys(names: str) -> list[bytes]:
    return [_bulk(_BASE + name) for name in names.split()]


def _head(sha: str, keys: int, arguments: int) -> bytes:
    return b"*%d\r\n" % (3 + keys + arguments) + _bulk("EVALSHA") + _bulk(sha) + _bulk(keys)


class Connection(asyncio.Protocol):
    """Answers come back in the order of the commands; each goes to its command's callback."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[Any], None]] = deque()
        self.reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            self.waiting.popleft()(reply)

    def send(self, command: bytes, then: Callable[[Any], None]) -> None:
        self.waiting.append(then)
        self.write(command)

    async def ask(self, *words: str | bytes | int) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.send(b"*%d\r\n" % len(words) + b"".join(map(_bulk, words)), future.set_result)
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply


async def _connect() -> Connection:
    address = urlsplit(tally.REDIS_URL)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, address.hostname, address.port or 6379
    )
    if address.password:
        await connection.ask("AUTH", address.username or "default", address.password)
    if address.path.strip("/"):
        await connection.ask("SELECT", address.path.strip("/"))
    return connection


async def _load(connection: Connection, name: str) -> str:
    text = (_SCRIPTS / name).read_text()
    await connection.ask("SCRIPT", "LOAD", text)
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis names scripts so


class Producer:
    async def open(self) -> None:
        self.connection = await _connect()
        sha = await _load(self.connection, "addStandardJob-9.lua")
        keys = _keys("wait paused meta id completed delayed active events marker")
        self.head = _head(sha, 9, 4) + b"".join(keys)
        self.options = _bulk(msgpack.packb({}))
        self.loop = asyncio.get_running_loop()

    def _command(self, n: int) -> bytes:
        now = round(time.time() * 1000)
        packed = msgpack.packb([_BASE, "", "noop", now, None, None, None, None, None])
        data = json.dumps({"n": n, "due": 0, "text": protocol.TEXT}, separators=(",", ":"))
        return self.head + _bulk(packed) + _bulk(data) + self.options + _bulk(now)

    async def add(self, n: int, due: float, delay_s: float) -> None:
        if due or delay_s:
            raise NotImplementedError("the limit client adds plain jobs only")
        future = self.loop.create_future()
        self.connection.send(self._command(n), future.set_result)
        await future

    async def add_bulk(self, numbers: list[int]) -> bool:
        done = self.loop.create_future()
        left = len(numbers)

        def answered(_reply: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        self.connection.waiting.extend([answered] * left)
        self.connection.write(b"".join(map(self._command, numbers)))
        await done
        return True

    async def close(self) -> None:
        self.connection.transport.close()


class _Lanes:
    def __init__(self, connection: Connection, fetch: str, finish: str) -> None:
        self.connection = connection
        claim = msgpack.packb({"token": _TOKEN, "lockDuration": _LOCK_MS, "limiter": None})
        common = _keys("wait active prioritized events stalled limiter delayed paused meta pc")
        self.fetch_head = _head(fetch, 11, 3) + b"".join(common) + b"".join(_keys("marker")) + _bulk(_BASE)
        self.fetch_tail = _bulk(claim)
        self.finish_head = _head(finish, 14, 8) + b"".join(common) + b"".join(_keys("completed"))
        self.finish_keys = b"".join(_keys("metrics:completed marker"))
        self.kind = _bulk("returnvalue")
        options = {"token": _TOKEN, "keepJobs": {"count": -1}, "limiter": None, "lockDuration": _LOCK_MS}
        options |= {"attempts": 1, "attemptsMade": 1, "maxMetricsSize": ""}
        options |= {"fpof": False, "cpof": False, "idof": False, "rdof": False}
        self.finish_tail = _bulk("completed") + _bulk("1") + _bulk(_BASE) + _bulk(msgpack.packb(options))

    def fetch(self) -> None:
        self.connection.send(self.fetch_head + _bulk(round(time.time() * 1000)) + self.fetch_tail, self.claimed)

    def claimed(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, list) or not reply[0]:
            asyncio.get_running_loop().call_later(0.2, self.fetch)
            return
        fields, job_id = reply[0], reply[1]
        data = json.loads(fields[fields.index(b"data") + 1])
        result = json.dumps(tally.job(data["n"], data["due"]), separators=(",", ":"))
        self.connection.send(
            b"".join(
                (
                    self.finish_head,
                    _bulk(_BASE.encode() + job_id),
                    self.finish_keys,
                    _bulk(job_id),
                    _bulk(round(time.time() * 1000)),
                    self.kind,
                    _bulk(result),
                    self.finish_tail,
                )
            ),
            self.claimed,
        )


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await _connect()
    fetch, finish = await _load(connection, "moveToActive-11.lua"), await _load(connection, "moveToFinished-14.lua")
    lanes = _Lanes(connection, fetch, finish)
    for _ in range(tally.CONCURRENCY):
        lanes.fetch()
    await stop.wait()


def worker() -> None:
    asyncio.run(_work())


if __name__ == "__main__":
    protocol.main(Producer, worker)
