"""The demo with a model that is no help: it says so, opens nothing, and its exit code tells."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.support.openai_server import OpenAiServer, Reply

from corral.wire.embedded import stop_embedded

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def _demo(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "CORRAL_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(ROOT / "src"),
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "corral", "demo", *arguments,
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_model_that_changes_nothing_opens_nothing(tmp_path: Path) -> None:
    server = OpenAiServer(Reply(pieces=("I would rather ", "not change anything.")))
    async with server.running():
        code, out, err = await _demo(
            tmp_path,
            "--json",
            "--candidates",
            "1",
            CORRAL_MODEL="openai-compatible:idle",
            CORRAL_MODEL_BASE_URL=server.url,
            CORRAL_MODEL_API_KEY="k-1",
        )
    assert code == 1, out + err
    status = json.loads(out.splitlines()[-1])
    assert status["state"] == "failed"
    assert status["error"]
    assert "Traceback" not in err
    steps = {step["jobType"]: step["state"] for step in status["progressDetail"]["steps"]}
    assert steps["codebase-indexing"] == "completed"
    assert steps["pr-creation"] == "pending"
    assert server.requests, "the model was asked"
    assert await stop_embedded(tmp_path / "data"), "jobs outlive the demo, for a look at them"


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (("--repo", "/no/such/repository", "--prompt", "x"), {}, 6, "expected a git repository"),
        (("--repo", "/no/such/repository"), {}, 2, "--prompt"),
        ((), {"CORRAL_MODEL": "nonsense"}, 6, "CORRAL_MODEL: expected local"),
        ((), {"CORRAL_MODEL": "openai:gpt-test"}, 6, "OPENAI_API_KEY"),
        ((), {"CORRAL_LOCAL_MODEL_PATH": "/no/such.gguf"}, 6, "CORRAL_LOCAL_MODEL_PATH"),
    ],
)
async def test_what_is_missing_is_told_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], code: int, said: str
) -> None:
    got, out, err = await _demo(tmp_path, *arguments, **variables)
    assert got == code, out + err
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "data" / "valkey").exists(), "no server was started"
