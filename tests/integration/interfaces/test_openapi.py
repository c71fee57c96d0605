"""The OpenAPI document, and a fuzzer that takes it at its word."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.integration.interfaces.samples import Client, TokenFactory

from corral.client import Corral
from corral.interfaces.http import create_app
from corral.testing.server import free_port

HERE = Path(__file__).parent


class Search:
    """Code search that finds one thing of each kind."""

    async def search(self, project_id: str, query: str, **_: Any) -> list[dict[str, Any]]:
        hit = {"path": f"{project_id}.py", "start_line": 1, "end_line": 2, "symbol": "", "kind": ""}
        return [{**hit, "language": "python", "score": 1.0, "why": "words", "text": query}]

    async def neighbourhood(self, project_id: str, path: str, **_: Any) -> dict[str, Any]:
        symbol = {"name": project_id, "kind": "function", "start_line": 1, "end_line": 2, "parent": ""}
        lists = {key: [path] for key in ("imports", "imported_files", "importers", "tests")}
        callers = await self.search(project_id, path)
        return {"path": path, "symbols": [symbol], "callers": callers, "left_out": 0, **lists}


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_fuzzer_finds_nothing(corral: Corral, token_for: TokenFactory, tmp_path: Path) -> None:
    """Schemathesis: all its checks, all its phases, stateful ones too. Event streams have their own tests."""
    corral.settings = corral.settings.model_copy(update={"long_poll_max": timedelta(milliseconds=50)})
    token = await token_for("root", "admin", request_limit=0)
    port = free_port()
    running = uvicorn.Server(
        uvicorn.Config(create_app(corral, search=Search()), port=port, log_config=None, lifespan="off")
    )
    serving = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    fuzzer = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file", str(HERE / "schemathesis.toml"),
        "run", f"http://127.0.0.1:{port}/openapi.json",
        "--header", f"Authorization: Bearer {token}",
        "--checks", "all",
        "--exclude-tag", "events",
        "--max-examples", os.environ.get("CORRAL_FUZZ_EXAMPLES", "15"),
        "--request-timeout", "20",
        "--suppress-health-check", "all",
        "--warnings", "off",
        "--no-color",
        *(["--seed", os.environ["CORRAL_FUZZ_SEED"]] if "CORRAL_FUZZ_SEED" in os.environ else []),
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(HERE)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await fuzzer.communicate()
    running.should_exit = True
    await serving
    assert fuzzer.returncode == 0, output.decode()
    assert "Stateful" in output.decode()


async def test_document_is_complete(client: Client) -> None:
    document = (await client.get("/openapi.json")).json()

    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation["description"], where
            assert operation["x-corral-scope"] in {"none", "read", "submit", "manage", "admin"}, where
            if operation["x-corral-scope"] == "none":
                assert "security" not in operation, where
            else:
                assert operation["security"] == [{"corral": []}], where
                assert {"401", "403", "429"} <= set(operation["responses"]), where
            for parameter in operation.get("parameters", ()):
                assert parameter["name"] != "job_type" or parameter["schema"]["enum"], where
            body = operation.get("requestBody", {}).get("content", {})
            if body:
                schema = str(body)
                assert "$ref" in schema, where
    schemas = document["components"]["schemas"]
    bodies = ("AddJob", "AddJobs", "FlowNode", "CronSchedule", "IntervalSchedule", "CreateToken", "AddProject")
    for name in (*bodies, "PullRequestSummary", "PullRequestPage", "PullRequestView"):
        assert schemas[name]["examples"], name
    assert "Problem" in schemas
    assert document["components"]["securitySchemes"]["corral"]["scheme"] == "bearer"


async def test_allow_names_all_methods_of_a_path(client: Client) -> None:
    answer = await client.patch("/v1/jobs/anything/1")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET"
    assert answer.headers["content-type"] == "application/problem+json"
