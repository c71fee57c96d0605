"""A package registry on the host's loopback: one package, as PyPI's simple index and npm's registry give it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Not 127.0.0.1, which programs reach without a proxy.
HOST = "127.0.0.2"
WORD = "hello from the registry"
_WHEEL = "greeting-1.0-py3-none-any.whl"


def _wheel() -> bytes:
    files = {
        "greeting.py": f"WORD = {WORD!r}\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + "greeting-1.0.dist-info/RECORD,,\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in (files | {"greeting-1.0.dist-info/RECORD": record}).items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def _tarball() -> bytes:
    files = {
        "package/package.json": json.dumps({"name": "greeting", "version": "1.0.0", "main": "index.js"}),
        "package/index.js": f"module.exports = {json.dumps(WORD)};\n",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(content.getvalue(), mtime=0)


class Registry:
    """What is served, and what was asked for."""

    def __init__(self, port: int) -> None:
        """Serve on ``port``."""
        self.address = f"http://{HOST}:{port}"
        self.host = f"{HOST}:{port}"
        self.asked: list[str] = []
        self._wheel = _wheel()
        self._tarball = _tarball()
        self.wheel_hash = hashlib.sha256(self._wheel).hexdigest()
        self.integrity = "sha512-" + base64.b64encode(hashlib.sha512(self._tarball).digest()).decode()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """The type and the content at a path."""
        self.asked.append(path)
        if path == "/simple/greeting/":
            link = f'<a href="/files/{_WHEEL}#sha256={self.wheel_hash}">{_WHEEL}</a>'
            return "text/html", link.encode()
        if path == "/npm/greeting":
            dist = {"tarball": f"{self.address}/npm/greeting-1.0.0.tgz", "integrity": self.integrity}
            version = {"name": "greeting", "version": "1.0.0", "main": "index.js", "dist": dist}
            about = {"name": "greeting", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            return "application/json", json.dumps(about).encode()
        files = {f"/files/{_WHEEL}": self._wheel, "/npm/greeting-1.0.0.tgz": self._tarball}
        return ("application/octet-stream", files[path]) if path in files else None


@contextmanager
def serving() -> Iterator[Registry]:
    """Serve a registry within the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = registry.answer(self.path)
            kind, content = found or ("text/plain", b"nothing here")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        registry = Registry(server.server_port)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
