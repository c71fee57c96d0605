"""The MCP server, asked by the protocol's own client: in process, over HTTP and over stdio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.interfaces.mcp import LocalFolder, http_app, make_server
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import folder_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    (root / "tax.py").write_text("def sales_tax(amount):\n    return amount * 0.19\n")
    (root / "shop.py").write_text("import tax\n\n\ndef checkout():\n    return tax.sales_tax(3)\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> LocalFolder:
    return LocalFolder(folder, LocalIndexStore(tmp_path / "indexes"), StaticEmbedder())


def said(result: Any) -> Any:
    assert not result.is_error, result
    content = result.structured_content
    return content["result"] if isinstance(content, dict) and "result" in content else content


async def test_a_folder_is_served_and_followed(local: LocalFolder, folder: Path) -> None:
    search = CodeSearch(local.store, local.embedder)
    async with Client(make_server(search, folder=local)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search_code", "find_definition", "code_context", "around_file"}
        assert "project_id" not in tools["search_code"].input_schema["properties"]
        hits = said(await client.call_tool("search_code", {"query": "how is tax computed", "limit": 1}))
        assert [(hit["path"], hit["symbol"], hit["start_line"]) for hit in hits] == [("tax.py", "sales_tax", 1)]
        (folder / "late.py").write_text("def arrived_later():\n    pass\n")
        found = said(await client.call_tool("find_definition", {"name": "arrived_later"}))
        assert [symbol["path"] for symbol in found] == ["late.py"]
        around = said(await client.call_tool("around_file", {"path": "tax.py"}))
        assert [hit["path"] for hit in around["callers"]] == ["shop.py"]
        assert said(await client.call_tool("code_context", {"query": "tax", "max_tokens": 200}))
        refused = await client.call_tool("around_file", {"path": "../../etc/passwd"})
        assert refused.is_error
        assert "no file" in refused.content[0].text  # type: ignore[union-attr]
    search.close()


async def test_projects_are_served_by_id(local: LocalFolder) -> None:
    build(folder_source(local.root), local.store, IndexName("shop"), local.embedder)
    search = CodeSearch(local.store, local.embedder)
    async with Client(make_server(search)) as client:
        hits = said(await client.call_tool("search_code", {"project_id": "shop", "query": "tax", "paths": ["shop.py"]}))
        assert [hit["path"] for hit in hits] == ["shop.py"]
        refused = await client.call_tool("search_code", {"project_id": "other", "query": "tax"})
        assert refused.is_error
        assert "has no index yet" in refused.content[0].text  # type: ignore[union-attr]
    search.close()


async def test_http_answers(local: LocalFolder) -> None:
    search = CodeSearch(local.store, local.embedder)
    app = http_app(make_server(search, folder=local))
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "search_code", "arguments": {"query": "sales_tax", "limit": 1}},
    }
    headers = {"accept": "application/json, text/event-stream"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8787") as client,
    ):
        answer = await client.post("/mcp", json=request, headers=headers)
        assert answer.status_code == 200, answer.text
        assert "tax.py" in json.dumps(answer.json()["result"])
        foreign = await client.post("/mcp", json=request, headers={**headers, "host": "evil.example"})
        assert foreign.status_code >= 400
    search.close()


@pytest.mark.slow
async def test_stdio_answers(folder: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from corral.adapters.embedder.static import StaticEmbedder
        from corral.adapters.index.local import LocalIndexStore
        from corral.interfaces.mcp import LocalFolder, make_server, serve_stdio
        from corral.jobs.codebase_indexing.search import CodeSearch
        local = LocalFolder(Path({str(folder)!r}), LocalIndexStore(Path({str(tmp_path / "ix")!r})), StaticEmbedder())
        serve_stdio(make_server(CodeSearch(local.store, local.embedder), folder=local))
        """
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    server = StdioServerParameters(command=sys.executable, args=["-c", program], env={"PYTHONPATH": path})
    async with Client(server) as client:
        hits = said(await client.call_tool("search_code", {"query": "sales_tax", "limit": 1}))
        assert hits[0]["path"] == "tax.py"
