"""The embedded local model: one server for all workers of this machine, started when first needed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import importlib.util
import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from corral.adapters.llm.local_files import OnProgress, ensure_model
from corral.adapters.llm.port import LanguageModel, ModelAnswer, ModelRequest, ModelTraits, OnText
from corral.adapters.processes import start_group
from corral.errors import ExtraMissing, LlmFailed, ModelUnavailable

CONTEXT_TOKENS = 8192
_START_TIMEOUT_S = 180
_MOST_THREADS = 8


class LocalModel:
    """Answers with the model on this machine; downloads and starts it at the first question."""

    def __init__(
        self,
        *,
        data_dir: Path,
        path: Path | None = None,
        on_progress: OnProgress | None = None,
        linger: timedelta = timedelta(seconds=20),
    ) -> None:
        """Nothing happens yet.

        Args:
            data_dir: Where the model's file and the server's state are kept.
            path: A GGUF file to use instead of the downloaded one.
            on_progress: Gets a line whenever the download or the start has news.
            linger: How long the server outlives its last user.
        """
        self._data_dir = data_dir
        self._path = path
        self._on_progress = on_progress
        self._linger = linger
        self._folder = data_dir / "models" / "server"
        self._users: int | None = None
        self._client: LanguageModel | None = None
        self._starting = asyncio.Lock()

    @property
    def name(self) -> str:
        """``local``, or ``local:FILE`` for a file of the user's own (a part of the response cache's key)."""
        return "local" if self._path is None else f"local:{self._path.name}"

    @property
    def traits(self) -> ModelTraits:
        """A small context, and no tool calls worth relying on."""
        return ModelTraits(context_tokens=CONTEXT_TOKENS, tools=False)

    async def start(self) -> None:
        """Have the server ready; ``complete`` does it by itself."""
        await self._ready()

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """Answer one request; see the port. A server that died is started again, once."""
        client = await self._ready()
        try:
            return await client.complete(request, on_text=on_text)
        except LlmFailed as error:
            if error.reason not in {"unreachable", "authentication"} or await self._alive(client):
                raise
        await self._forget(client)
        return await (await self._ready()).complete(request, on_text=on_text)

    async def close(self) -> None:
        """Stop using the server; it ends by itself when this was its last user."""
        async with self._starting:
            if self._client is not None:
                await self._client.close()
                self._client = None
            if self._users is not None:
                os.close(self._users)
                self._users = None

    async def _ready(self) -> LanguageModel:
        async with self._starting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def _forget(self, client: LanguageModel) -> None:
        async with self._starting:
            if self._client is client:
                self._client = None
                await client.close()

    async def _alive(self, client: LanguageModel) -> bool:
        if self._client is not client:
            return False  # somebody else has seen it die already
        state = _read_state(self._folder)
        return state is not None and await _answers(state)

    async def _connect(self) -> LanguageModel:
        if importlib.util.find_spec("xllamacpp") is None:
            raise ExtraMissing(
                "the embedded model needs an extra: pip install 'corral[llm,local-model]' "
                "(or choose a hosted model with CORRAL_MODEL)"
            )
        model = await self._model_file()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._users is None:
            self._users = os.open(self._folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        await _flock(self._users, fcntl.LOCK_SH)
        start = os.open(self._folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await _flock(start, fcntl.LOCK_EX)
            state = _read_state(self._folder)
            if state is None or state.model != str(model) or not await _answers(state):
                state = await self._spawn(model)
        finally:
            os.close(start)
        # Importing the client library takes seconds on a busy machine; the event loop must not stand still for it.
        await asyncio.to_thread(importlib.import_module, "corral.adapters.llm.provider")
        return _client(state, name=self.name, traits=self.traits)

    async def _model_file(self) -> Path:
        if self._path is None:
            return await ensure_model(self._data_dir, on_progress=self._on_progress)
        if not self._path.is_file():
            raise ModelUnavailable(f"CORRAL_LOCAL_MODEL_PATH names no file: {str(self._path)!r}")
        return self._path.resolve()

    async def _spawn(self, model: Path) -> _State:
        if self._on_progress is not None:
            await self._on_progress("local model: starting")
        orders = {
            "folder": str(self._folder),
            "model": str(model),
            "key": secrets.token_urlsafe(24),
            "context_tokens": CONTEXT_TOKENS,
            "threads": min(len(os.sched_getaffinity(0)), _MOST_THREADS),
            "linger_s": self._linger.total_seconds(),
        }
        log = os.open(self._folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            process = await start_group(
                sys.executable,
                "-m",
                "corral.adapters.llm.local_server",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_server_environment(),
            )
        finally:
            os.close(log)
        try:
            await self._hand_over(process, orders)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it and the server that it is about to let go
            await process.wait()
            raise
        state = _read_state(self._folder)
        if state is None:
            raise self._start_failed("it left no address")
        return state

    async def _hand_over(self, process: asyncio.subprocess.Process, orders: dict[str, object]) -> None:
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(json.dumps(orders).encode() + b"\n")
            await stdin.drain()
            stdin.close()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                said = await stdout.readline()
        except TimeoutError:
            raise self._start_failed(f"it was not ready after {_START_TIMEOUT_S} s") from None
        await process.wait()
        if said.strip() != b"ready":
            raise self._start_failed(f"it ended with {process.returncode}")

    def _start_failed(self, why: str) -> LlmFailed:
        log = self._folder / "server.log"
        tail = ""
        with contextlib.suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            tail = f": {lines[-1]}" if lines else ""
        return LlmFailed(
            f"the local model's server did not start ({why}){tail}; its log is {log}",
            service="local model",
            operation="start",
            retryable=True,
            reason="unreachable",
        )


@dataclass(frozen=True)
class _State:
    """Where the running server is."""

    address: str
    key: str
    model: str


def _read_state(folder: Path) -> _State | None:
    try:
        found = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return _State(address=str(found["address"]), key=str(found["key"]), model=str(found["model"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _answers(state: _State) -> bool:
    """Whether the server is there and takes our key (the port may belong to somebody else by now)."""
    where = urlsplit(state.address)
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                writer.write(
                    f"GET /v1/models HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {state.key}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                await writer.drain()
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


def _client(state: _State, *, name: str, traits: ModelTraits) -> LanguageModel:
    from corral.adapters.llm.provider import open_provider_model  # noqa: PLC0415 - heavy

    return open_provider_model(
        "openai-compatible",
        "local",
        base_url=f"{state.address}/v1",
        api_key=state.key,
        traits=traits,
        name=name,
        # Answers are given one after the other, and reading a long prompt on a busy machine takes minutes.
        idle_timeout=timedelta(minutes=10),
        first_text_timeout=timedelta(minutes=60),
    )


def _server_environment() -> dict[str, str]:
    # No key of the worker's may be in reach of a process that only multiplies matrices.
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment.setdefault("PYTHONPATH", str(Path(__file__).parents[3]))
    # Spinning threads on a busy machine take the time that the others' work needs: ten times slower without this.
    environment["OMP_WAIT_POLICY"] = "passive"
    return environment


async def _flock(fd: int, how: int) -> None:
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.1)  # flock has no way to wait that a task can be cancelled from
        else:
            return
