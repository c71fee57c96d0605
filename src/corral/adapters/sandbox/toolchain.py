"""What of the host a sandboxed program may see, read-only: the system's programs and the language toolchains."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: Of /etc only what programs need to start, to speak TLS and to know the time zone: the rest of it holds secrets.
_SYSTEM_FILES = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/timezone", "/etc/mime.types", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates",
    "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/fonts", "/etc/debian_version", "/etc/os-release",
)  # fmt: skip
_NODE_PROGRAMS = ("node",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """Host paths, each seen at the same path inside."""

    #: Path → None for a bind, or the target of a symbolic link that is made instead (merged ``/usr``).
    paths: dict[str, str | None]
    #: The value of ``PATH``.
    search_path: str


def _outside_usr(path: Path) -> bool:
    return not path.is_relative_to("/usr") and path != Path("/")


def _prefixes(extra: Iterable[Path]) -> list[Path]:
    found = [Path(sys.prefix), Path(sys.base_prefix)]
    for program in _NODE_PROGRAMS:
        if where := shutil.which(program):
            prefix = Path(where).resolve().parent.parent
            if (prefix / "bin" / program).exists():
                found.append(prefix)
    found.extend(extra)
    return [path for path in dict.fromkeys(found) if _outside_usr(path) and path.exists()]


def find_toolchain(extra: Iterable[Path] = ()) -> Toolchain:
    """Find what this machine offers: the system, this Python (and its virtual environment), Node.

    Args:
        extra: Further prefixes or files; a prefix's ``bin`` comes first in ``PATH``.
    """
    extra = list(extra)
    paths: dict[str, str | None] = {}
    for folder in _SYSTEM_FOLDERS:
        if os.path.islink(folder):  # noqa: PTH114 - pairs with readlink below, on plain strings
            paths[folder] = os.readlink(folder)  # noqa: PTH115 - the link's text as it stands
        elif os.path.isdir(folder):  # noqa: PTH112
            paths[folder] = None
    for file in _SYSTEM_FILES:
        if os.path.exists(file):  # noqa: PTH110
            paths[file] = None
    prefixes = _prefixes(extra)
    for prefix in prefixes:
        paths[str(prefix)] = None
    first = [path for path in extra if path in prefixes]
    ordered = [*first, *(path for path in prefixes if path not in first)]
    folders = [str(path / "bin") for path in ordered if (path / "bin").is_dir()]
    return Toolchain(
        paths=paths,
        search_path=":".join([*folders, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
    )
