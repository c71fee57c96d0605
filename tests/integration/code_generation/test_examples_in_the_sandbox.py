"""The model's own examples, run by real runners in the real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.jobs.code_generation.stage import FolderWorkspaces, scripted

from corral.adapters.llm.port import ModelTraits
from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.proxy import AllowList
from corral.jobs.code_generation.handler import CodeGenerationHandler
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import CodeGenerationResult, EndReason
from corral.jobs.test_execution.runner import TestRunner
from corral.settings import Settings
from corral.testing import job_for

FILES = {
    "shop/__init__.py": "",
    "shop/price.py": "def net(price):\n    return price\n",
    "tests/__init__.py": "",
    "tests/test_price.py": (
        "import unittest\n\nfrom shop.price import net\n\n\nclass PriceTest(unittest.TestCase):\n"
        "    def test_net(self):\n        self.assertEqual(net(1), 1)\n"
    ),
}
EXAMPLES = (
    "```python\nfrom shop.price import slug\n\nassert slug('a b') == 'a-b'\nassert slug('A') == 'a'\n"
    "with self.assertRaises(TypeError):\n    slug(None)\n```"
)
WRONG = "```python\ndef slug(text):\n    return str(text).lower()\n```"
RIGHT = "```python\ndef slug(text):\n    return '-'.join(iter_words(text))\n\n\ndef iter_words(text):\n"
RIGHT += "    if text is None:\n        raise TypeError\n    return text.lower().split()\n```"


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[TestRunner]:
    sandbox = BubblewrapSandbox(home=tmp_path / "data" / "sandbox" / "runs", setup_hosts=AllowList())
    made = TestRunner(sandbox, data_dir=tmp_path / "data")
    yield made
    await made.close()


async def run(tmp_path: Path, runner: TestRunner, model: Any, command: str | None) -> CodeGenerationResult:
    async def open_model(_: str) -> Any:
        return model

    class Projects:
        async def get(self, project_id: str) -> Any:
            return SimpleNamespace(id=project_id, default_branch="main", test_command=command, setup_command=None)

    handler = CodeGenerationHandler(
        settings=Settings(_env_file=None, model="local"),
        projects=Projects(),
        workspaces=FolderWorkspaces(tmp_path / "work", FILES),
        open_model=open_model,
        tests=runner,
    )
    task = CodeGeneration(
        task_id="t1", user_id="u1", project_id="p1", prompt="Write slug(text) in shop/price.py", max_repairs=1
    )
    return await handler(job_for(task, job_type="code-generation"))


@pytest.mark.parametrize("command", ["python3 -m unittest", "python3 -m pytest -q", None])
async def test_each_example_is_run_by_the_projects_runner_and_by_itself(
    tmp_path: Path, runner: TestRunner, command: str | None
) -> None:
    model = scripted(WRONG, EXAMPLES, RIGHT, name="local", traits=ModelTraits(context_tokens=8192, tools=False))
    result = await run(tmp_path, runner, model, command)
    complaint = model.requests[2].messages[-1].text
    assert "self.assertEqual(slug('a b'), 'a-b')\n  AssertionError: 'a b' != 'a-b'" in complaint
    assert "with self.assertRaises(TypeError):\n    slug(None)\n  AssertionError: TypeError not raised" in complaint
    assert "slug('A')" not in complaint, "it holds"
    assert result.ended is (EndReason.FINISHED if command is None else EndReason.TESTS_PASS)
    assert result.examples is not None
    assert (result.examples.written, result.examples.holding) == (3, 3)
    assert [file.path for file in result.files] == ["shop/price.py"]


async def test_a_runner_that_is_not_known_runs_no_examples_and_the_change_is_kept(
    tmp_path: Path, runner: TestRunner
) -> None:
    model = scripted(WRONG, EXAMPLES, name="local", traits=ModelTraits(context_tokens=8192, tools=False))
    result = await run(tmp_path, runner, model, "true")
    assert (result.ended, result.examples) == (EndReason.TESTS_PASS, None)
