"""A Podman of the tests' own: its images and containers in a folder that goes away, and an image made of this machine.

Nothing is pulled, and nothing of the user's own Podman is seen or changed. The image has a shell, a few programs and
Python, copied with the libraries that they load.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

IMAGE = "localhost/corral-test:1"
_PROGRAMS = ("sh", "echo", "sleep", "yes", "cat", "mkdir", "ls")
#: Some runtimes don't know every kind of cgroups: the first that can run a bounded container is taken.
_RUNTIMES = ("crun", "runc")
_LEFT_OUT = re.compile(r"/(?:test|tests|idlelib|tkinter|ensurepip|lib2to3|pydoc_data|__pycache__|config-[^/]*)(?:/|$)")


def make_podman(folder: Path) -> Path:
    """Make a Podman with the image in it.

    Returns:
        The program.

    Raises:
        LookupError: There is none, or none that can run a container here; says why.
    """
    found = shutil.which("podman")
    if found is None:
        raise LookupError("no podman on this machine (.ci/run installs it)")
    why = "no runtime"
    image = _image()
    for runtime in filter(shutil.which, _RUNTIMES):
        program = folder / f"podman-{runtime}"
        # Copies in place of mounts, which would outlive the tests.
        stores = f"--storage-driver vfs --root {folder}/{runtime}/storage --runroot {folder}/{runtime}/run"
        program.write_text(f'#!/bin/sh\nexec {found} --runtime {runtime} --cgroup-manager cgroupfs {stores} "$@"\n')
        program.chmod(0o755)
        done = _said(program, "import", "--change", "ENV PATH=/bin", "-", IMAGE, stdin=image)
        if done.returncode == 0:
            bounds = [
                "--memory",
                "64m",
                "--pids-limit",
                "32",
                "--ulimit",
                "nofile=256:256",
                "--ulimit",
                "nproc=256:256",
            ]
            done = _said(program, "run", "--rm", "--network", "none", *bounds, IMAGE, "echo", "works")
        if done.returncode == 0:
            return program
        why = done.stderr.decode(errors="replace").strip()[-300:]
    raise LookupError(f"podman can't run a container here: {why}")


def _said(program: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60, check=False)


def _libraries(program: str) -> list[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said, re.MULTILINE)


def _image() -> bytes:
    """An archive of a root folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for folder in ("etc", "proc", "dev", "sys", "tmp", "run"):
            made = tarfile.TarInfo(folder)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(made)
        for name, source in _contents().items():
            archive.add(source.resolve(), arcname=name.lstrip("/"), recursive=False)
    return content.getvalue()


def _contents() -> dict[str, Path]:
    """Path in the image → file of this machine."""
    files: dict[str, Path] = {}
    for name in (*_PROGRAMS, "python3"):
        if source := shutil.which(name, path="/bin:/usr/bin"):
            files[f"/bin/{name}"] = Path(source)
    if python := files.get("/bin/python3"):
        said = subprocess.run(
            [python, "-I", "-c", "import os; print(os.path.dirname(os.__file__))"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        modules = Path(said.stdout.strip()).rglob("*")
        files |= {str(path): path for path in modules if path.is_file() and not _LEFT_OUT.search(str(path))}
    for name, path in list(files.items()):
        if name.startswith("/bin/") or path.suffix == ".so":
            files |= {library: Path(library) for library in _libraries(str(path))}
    return files
