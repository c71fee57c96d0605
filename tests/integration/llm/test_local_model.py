"""The embedded model itself: two gigabytes of memory, so all of it in one test run of few answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from corral.adapters.llm.local_files import is_present
from corral.adapters.llm.local_model import LocalModel
from corral.adapters.llm.port import Finish, Message, ModelRequest, Role
from corral.errors import LlmFailed, ModelUnavailable

pytest.importorskip("xllamacpp")


def question(text: str, *, max_tokens: int = 40) -> ModelRequest:
    return ModelRequest(
        system="You write Python.",
        messages=(Message(role=Role.USER, text=text),),
        max_tokens=max_tokens,
        temperature=0.0,
    )


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_one_server_for_all_that_survives_its_own_death(kept_data_dir: Path) -> None:
    if not is_present(kept_data_dir):
        pytest.skip("the local model is not on this machine; `corral doctor` says how to get it")
    state = kept_data_dir / "models" / "server" / "state.json"
    first = LocalModel(data_dir=kept_data_dir, linger=timedelta(seconds=1))
    second = LocalModel(data_dir=kept_data_dir)
    try:
        answer = await first.complete(question("Write `def add(a, b)` in one line. Only code."))
        assert "return a + b" in answer.text or "lambda a, b: a + b" in answer.text
        assert answer.finish is Finish.STOP
        assert answer.model == "local"
        assert state.stat().st_mode & 0o077 == 0
        pid = json.loads(state.read_text())["pid"]
        assert (await second.complete(question("Say hi.", max_tokens=2))).finish is Finish.LENGTH
        assert json.loads(state.read_text())["pid"] == pid

        running = asyncio.create_task(second.complete(question("Tell a long story.", max_tokens=2000)))
        await asyncio.sleep(0.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await first.complete(question("Say hi.", max_tokens=2))

        with pytest.raises(LlmFailed) as caught:
            await first.complete(question("word " * 9000))
        assert caught.value.reason == "context_length"

        os.kill(pid, signal.SIGKILL)
        assert (await first.complete(question("Say hi.", max_tokens=2))).text
        assert json.loads(state.read_text())["pid"] != pid
    finally:
        await first.close()
        await second.close()


async def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    model = LocalModel(data_dir=tmp_path, path=tmp_path / "none.gguf")
    with pytest.raises(ModelUnavailable, match="CORRAL_LOCAL_MODEL_PATH"):
        await model.start()
    assert model.name == "local:none.gguf"


async def test_a_file_that_is_no_model_is_said_with_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    model = LocalModel(data_dir=tmp_path, path=broken)
    with pytest.raises(LlmFailed, match=r"did not start .*server\.log"):
        await model.start()
    await model.close()
