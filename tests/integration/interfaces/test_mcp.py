"""The MCP server, asked by the protocol's own client: in process, over HTTP and over stdio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.client import Corral
from corral.interfaces.identity import Authenticator, TokenStore
from corral.interfaces.mcp import LocalFolder, http_app, make_server
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import folder_source
from corral.testing.server import EmbeddedServer, free_port


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


async def test_agents_are_told_the_same_of_a_folders_and_of_projects_tools(local: LocalFolder) -> None:
    search = CodeSearch(local.store, local.embedder)
    told = []
    for folder in (local, None):
        async with Client(make_server(search, folder=folder)) as client:
            told.append({tool.name: tool.description for tool in (await client.list_tools()).tools})
    assert told[0] == told[1]
    assert all(told[0].values())
    search.close()


async def test_what_an_agent_gets_wrong_is_told(local: LocalFolder, folder: Path) -> None:
    search = CodeSearch(local.store, local.embedder)
    async with Client(make_server(search, folder=local)) as client:

        async def refused(tool: str, **arguments: Any) -> str:
            result = await client.call_tool(tool, arguments)
            assert result.is_error, result
            return str(result.content[0].text)  # type: ignore[union-attr]

        tax = {"query": "sales_tax"}
        assert "no language here is called pyton; there are python" in await refused(
            "search_code", **tax, languages=["pyton"]
        )
        assert "no kind here is called functon; there are function, method" in await refused(
            "search_code", **tax, kinds=["functon"]
        )
        for tool, name in (("search_code", "query"), ("code_context", "query"), ("find_definition", "name")):
            assert f"expected some text as {name}" in await refused(tool, **{name: " "})
        assert "expected some text as path" in await refused("around_file", path="")
        assert "there is tax.py" in await refused("around_file", path="src/tax.py")
        (folder / "logo.png").write_bytes(b"\x89PNG")
        assert "'logo.png' was left out of the index" in await refused("around_file", path="logo.png")
        assert "limit" in await refused("search_code", **tax, limit="many")
        assert "Unknown tool" in await refused("delete_everything")
        found = await client.call_tool("search_code", {**tax, "languages": ["Python"], "kinds": ["FUNCTION"]})
        assert [hit["path"] for hit in said(found)][:1] == ["tax.py"]
        assert said(await client.call_tool("search_code", {**tax, "paths": ["nowhere/"]})) == []
        for path in ("tax.py", "./tax.py", "src/../tax.py", str(folder / "tax.py")):
            around = said(await client.call_tool("around_file", {"path": path}))
            assert (around["path"], around["left_out"]) == ("tax.py", 0)
        assert said(await client.call_tool("find_definition", {"name": "tax.sales_tax"}))[0]["path"] == "tax.py"
    search.close()


async def test_a_folder_that_is_gone_is_said_to_be_and_found_again(local: LocalFolder, folder: Path) -> None:
    search = CodeSearch(local.store, local.embedder)
    async with Client(make_server(search, folder=local)) as client:
        assert said(await client.call_tool("find_definition", {"name": "sales_tax"}))
        folder.rename(folder.with_name("away"))
        refused = await client.call_tool("find_definition", {"name": "sales_tax"})
        assert refused.is_error
        assert f"expected a folder, found none at '{folder}'" in refused.content[0].text  # type: ignore[union-attr]
        folder.with_name("away").rename(folder)
        before = (await search.state(local.project_id)).generation
        assert said(await client.call_tool("find_definition", {"name": "sales_tax"}))
        assert (await search.state(local.project_id)).generation == before, "nothing was lost meanwhile"
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


@pytest.fixture
async def guarded(
    local: LocalFolder, corral_server: EmbeddedServer, corral_prefix: str
) -> AsyncIterator[tuple[str, TokenStore]]:
    """A server of two projects over real HTTP, whose tokens are in a real Redis."""
    for project in ("shop", "bank"):
        build(folder_source(local.root), local.store, IndexName(project), local.embedder)
    search = CodeSearch(local.store, local.embedder)
    async with Corral(redis_url=corral_server.url, prefix=corral_prefix) as corral:
        tokens = TokenStore(corral.redis, prefix=corral_prefix)
        app = http_app(make_server(search), authenticator=Authenticator(tokens))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
            assert not running.done()
        yield f"http://127.0.0.1:{port}/mcp", tokens
        server.should_exit = True
        await running
    search.close()


@contextlib.asynccontextmanager
async def client_with(url: str, token: str) -> AsyncIterator[Client]:
    async with (
        create_mcp_http_client(headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def test_over_http_a_token_opens_its_projects_only(guarded: tuple[str, TokenStore]) -> None:
    url, tokens = guarded
    shop, _ = await tokens.create("ada", ["read"], projects=["shop"])
    everything, _ = await tokens.create("root", ["admin"])
    async with client_with(url, shop) as ada, client_with(url, everything) as root:
        assert {tool.name for tool in (await ada.list_tools()).tools} == {
            "search_code",
            "find_definition",
            "code_context",
            "around_file",
        }
        asked: list[tuple[str, dict[str, Any]]] = [
            ("search_code", {"query": "sales tax"}),
            ("find_definition", {"name": "sales_tax"}),
            ("code_context", {"query": "sales tax", "max_tokens": 300}),
            ("around_file", {"path": "tax.py"}),
        ]
        for tool, arguments in asked:
            # At once, so that one caller's rights could be taken for the other's.
            allowed, refused, other = await asyncio.gather(
                ada.call_tool(tool, {"project_id": "shop", **arguments}),
                ada.call_tool(tool, {"project_id": "bank", **arguments}),
                root.call_tool(tool, {"project_id": "bank", **arguments}),
            )
            assert "tax.py" in json.dumps(said(allowed))
            assert "tax.py" in json.dumps(said(other))
            assert refused.is_error
            missing = await root.call_tool(tool, {"project_id": "no-such", **arguments})
            told = [result.content[0].text for result in (refused, missing)]  # type: ignore[union-attr]
            assert told[0].replace("bank", "no-such") == told[1], "a project of others looks as if it did not exist"


async def test_over_http_nobody_comes_in_without_a_token(guarded: tuple[str, TokenStore]) -> None:
    url, tokens = guarded
    submit_only, info = await tokens.create("bob", ["submit"])
    reading, reading_info = await tokens.create("bob", ["read"])
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient() as client:
        for header, status in (
            (None, 401),
            ("Bearer wrong", 401),
            ("Basic abc", 401),
            (f"Bearer {submit_only}", 403),
            (f"Bearer {reading}", 200),
        ):
            headers = accept if header is None else {**accept, "authorization": header}
            answer = await client.post(url, json=request, headers=headers)
            assert answer.status_code == status, answer.text
            assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
        assert await tokens.revoke(reading_info.id)
        tokens._checked.clear()  # what a second does
        answer = await client.post(url, json=request, headers={**accept, "authorization": f"Bearer {reading}"})
        assert answer.status_code == 401
    assert info.id != reading_info.id


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
