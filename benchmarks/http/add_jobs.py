"""How fast jobs are added over HTTP, against a bare FastAPI route that does one Redis round trip on the same server.

    python benchmarks/http/add_jobs.py [--requests 3000] [--connections 16]

Both run in one uvicorn process (uvloop, httptools) with one Redis; the load comes from another process over kept-alive
connections. Rounds of the two alternate, so that a busy machine is busy for both; the medians are compared. The
processor time that the server's process spends on a request is compared too: other programs hardly disturb it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from corral.client import Corral
from corral.interfaces.http import create_router
from corral.interfaces.identity import TokenStore
from corral.settings import Settings
from corral.testing import EmbeddedServer
from corral.testing.server import free_port

BODY = json.dumps({"data": {"taskId": "1", "prompt": "Build auth system", "projectId": "proj-id"}}).encode()


def serve(url: str, port: int, ready: Any) -> None:
    """The server's process."""

    async def main() -> None:
        corral = Corral(url, settings=Settings(request_limit=1_000_000_000, _env_file=None))
        await corral.connect()
        app = FastAPI()

        @app.post("/bare")
        async def bare() -> JSONResponse:
            return JSONResponse({"id": str(await corral.redis.incr("bench:bare"))}, status_code=201)

        app.include_router(create_router(corral))
        config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", loop="uvloop", http="httptools")
        server = uvicorn.Server(config)
        token, _ = await TokenStore(corral.redis, prefix=corral.namespace).create("bench", ["admin"])
        running = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        ready.put(token)
        await running

    asyncio.run(main())


def processor_seconds(pid: int) -> float:
    """Time that a process has spent on a processor, in user and kernel mode (`proc(5)`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, path: str, token: str, requests: int, connections: int) -> tuple[float, list[float]]:
    """Send requests over kept-alive connections.

    Returns:
        Requests a second, and the seconds that each took.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    ).encode()
    took: list[float] = []

    async def one(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            begun = time.perf_counter()
            writer.write(head + BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 201 " not in answer[:20]:
                raise RuntimeError(answer.decode())
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.perf_counter() - begun)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(one(requests // connections) for _ in range(connections)))
    return len(took) / (time.perf_counter() - begun), took


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with EmbeddedServer() as server:
        port = free_port()
        ready: multiprocessing.Queue[str] = multiprocessing.Queue()
        process = multiprocessing.Process(target=serve, args=(server.url, port, ready))
        process.start()
        token = ready.get(timeout=30)
        paths = {"bare": "/bare", "corral": "/v1/jobs/code-generation"}
        rates: dict[str, list[float]] = {name: [] for name in paths}
        times: dict[str, list[float]] = {name: [] for name in paths}
        costs: dict[str, list[float]] = {name: [] for name in paths}
        for path in paths.values():
            asyncio.run(load(port, path, token, 500, asked.connections))
        for _ in range(asked.rounds):
            for name, path in paths.items():
                before = processor_seconds(process.pid or 0)
                rate, took = asyncio.run(load(port, path, token, asked.requests, asked.connections))
                rates[name].append(rate)
                times[name] += took
                costs[name].append((processor_seconds(process.pid or 0) - before) / len(took))
        process.terminate()
        process.join()
    for name in paths:
        cuts = statistics.quantiles(times[name], n=100)
        rate, p50, p99 = statistics.median(rates[name]), cuts[49] * 1000, cuts[98] * 1000
        cost = statistics.median(costs[name]) * 1e6
        print(f"{name:8} {rate:8.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {cost:6.0f} us of processor time")
    ratio = statistics.median(c / b for b, c in zip(rates["bare"], rates["corral"], strict=True))
    cost = statistics.median(b / c for b, c in zip(costs["bare"], costs["corral"], strict=True))
    print(f"ratio    {ratio:.2f} of the bare route's rate, {cost:.2f} by processor time")


if __name__ == "__main__":
    main()
