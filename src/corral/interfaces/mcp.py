"""``corral mcp``: the code index for any coding agent, by the Model Context Protocol, over stdio or HTTP.

Four tools, all read-only: ``search_code``, ``find_definition``, ``code_context`` (what fits a budget of tokens) and
``around_file``. A server answers either from the indexes of an installation, project by project, or from one folder,
which it indexes at start and brings up to date before each answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.errors import ConfigurationError, CorralError, ExtraMissing
from corral.interfaces.identity import Authenticator, TokenStore
from corral.interfaces.jwts import JwtVerifier
from corral.interfaces.mcp_access import Guarded, caller
from corral.jobs.codebase_indexing.indexed_folders import IndexedFolders
from corral.jobs.codebase_indexing.search import CodeSearch, SearchHit, not_indexed
from corral.settings import Settings, read_settings

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from corral.adapters.embedder.port import Embedder
    from corral.adapters.index.port import IndexStore, StoredSymbol

_MAX_HITS = 50
_MAX_TOKENS = 50_000
_INSTRUCTIONS = (
    "Search this code base by meaning and by name. Ask search_code a question in plain words, or give it a name as "
    "written in code; use code_context when you want as much relevant code as fits a budget; find_definition for one "
    "exact name; around_file before you change a file. Lines count from 1."
)


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """One folder to serve, indexed here."""

    root: Path
    store: IndexStore
    embedder: Embedder
    #: Whether repositories inside it are entered.
    nested: bool = False

    @property
    def project_id(self) -> str:
        """Its name in the store: readable, and different for each folder."""
        resolved = self.root.resolve()
        return f"folder-{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"

    async def refresh(self) -> None:
        """Bring the index up to date: some tens of milliseconds when little or nothing changed."""
        await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        from corral.adapters.index.port import IndexName  # noqa: PLC0415 - the ``index`` extra
        from corral.jobs.codebase_indexing.build import build  # noqa: PLC0415 - likewise
        from corral.jobs.codebase_indexing.nested import NestedSource, with_inner_folders  # noqa: PLC0415 - likewise
        from corral.jobs.codebase_indexing.source import folder_source  # noqa: PLC0415 - likewise

        outer = folder_source(self.root)
        source = with_inner_folders(self.root, outer) if self.nested else NestedSource(outer, {})
        build(source, self.store, IndexName(self.project_id), self.embedder)


def make_server(search: CodeSearch, *, folder: LocalFolder | None = None, version: str = "0") -> MCPServer:
    """The server, not running yet.

    Args:
        search: Answers.
        folder: Serve this folder only; None serves every project, and each tool asks for ``project_id``.
        version: Corral's, told to clients.

    Raises:
        ExtraMissing: The ``mcp`` extra is not installed.
    """
    try:
        from mcp.server import MCPServer  # noqa: PLC0415 - optional: the ``mcp`` extra
        from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415 - likewise
        from mcp.types import ToolAnnotations  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ExtraMissing("corral mcp needs the 'mcp' extra: pip install 'corral[mcp]'") from error
    server = MCPServer(
        "corral", title="Corral code search", instructions=_INSTRUCTIONS, version=version, log_level="ERROR"
    )
    answers = _Answers(search, folder, ToolError)
    read_only = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    for name, tool in (answers.for_folder() if folder else answers.for_projects()).items():
        server.tool(name, annotations=read_only, structured_output=True)(tool)
    return server


def serve_stdio(server: MCPServer) -> None:
    """Talk over standard input and output until the client hangs up."""
    server.run("stdio")


def http_app(
    server: MCPServer, *, path: str = "/mcp", host: str = "127.0.0.1", authenticator: Authenticator | None = None
) -> Any:
    """An ASGI application that speaks streamable HTTP at ``path``; it holds no state between requests.

    Args:
        server: From ``make_server``.
        path: Where.
        host: The bind address, whose name requests must carry (against DNS rebinding).
        authenticator: Who may come in, and to which projects; None lets everybody in.
    """
    app = server.streamable_http_app(streamable_http_path=path, stateless_http=True, json_response=True, host=host)
    return app if authenticator is None else Guarded(app, authenticator)


class _Answers:
    """The tools' bodies; what an agent should know of a failure is told to it, the rest is an error of the server."""

    def __init__(self, search: CodeSearch, folder: LocalFolder | None, tool_error: type[Exception]) -> None:
        self._search = search
        self._folder = folder
        self._tool_error = tool_error
        self._fresh = asyncio.Lock()

    def for_projects(self) -> dict[str, Any]:
        async def search_code(  # noqa: PLR0917 - a tool's arguments come by name
            project_id: str,
            query: str,
            limit: int = 10,
            branch: str = "",
            languages: list[str] | None = None,
            paths: list[str] | None = None,
            kinds: list[str] | None = None,
        ) -> list[dict[str, Any]]:
            """Find code by a question in plain words or by a name.

            Filters: languages ("python"), paths ("src/", "*.ts"), kinds ("function", "class", "method"). Each hit has
            path, lines, symbol, why it was found, and text.
            """
            return await self.search(
                project_id, query, limit=limit, branch=branch, languages=languages, paths=paths, kinds=kinds
            )

        async def find_definition(project_id: str, name: str, branch: str = "") -> list[dict[str, Any]]:
            """Where an exact name (case matters) is defined: path, lines, kind, what it is inside of.

            The name may say so itself: "Cart.add", "shop::Cart::add".
            """
            return await self.definitions(project_id, name, branch)

        async def code_context(
            project_id: str, query: str, max_tokens: int = 4000, branch: str = ""
        ) -> list[dict[str, Any]]:
            """As much relevant code as fits a budget of tokens, best first."""
            return await self.context(project_id, query, max_tokens, branch)

        async def around_file(project_id: str, path: str, max_tokens: int = 4000, branch: str = "") -> dict[str, Any]:
            """What surrounds a file: its definitions, imports, importers, tests, and code that uses it.

            All of it stays within max_tokens; left_out counts what had no room.
            """
            return await self.around(project_id, path, max_tokens, branch)

        return _named(search_code, find_definition, code_context, around_file)

    def for_folder(self) -> dict[str, Any]:
        async def search_code(
            query: str,
            limit: int = 10,
            languages: list[str] | None = None,
            paths: list[str] | None = None,
            kinds: list[str] | None = None,
        ) -> list[dict[str, Any]]:
            """Find code by a question in plain words or by a name.

            Filters: languages ("python"), paths ("src/", "*.ts"), kinds ("function", "class", "method"). Each hit has
            path, lines, symbol, why it was found, and text.
            """
            return await self.search("", query, limit=limit, languages=languages, paths=paths, kinds=kinds)

        async def find_definition(name: str) -> list[dict[str, Any]]:
            """Where an exact name (case matters) is defined: path, lines, kind, what it is inside of.

            The name may say so itself: "Cart.add", "shop::Cart::add".
            """
            return await self.definitions("", name, "")

        async def code_context(query: str, max_tokens: int = 4000) -> list[dict[str, Any]]:
            """As much relevant code as fits a budget of tokens, best first."""
            return await self.context("", query, max_tokens, "")

        async def around_file(path: str, max_tokens: int = 4000) -> dict[str, Any]:
            """What surrounds a file: its definitions, imports, importers, tests, and code that uses it.

            All of it stays within max_tokens; left_out counts what had no room.
            """
            return await self.around("", path, max_tokens, "")

        return _named(search_code, find_definition, code_context, around_file)

    async def search(
        self,
        project_id: str,
        query: str,
        *,
        limit: int,
        branch: str = "",
        languages: Sequence[str] | None = None,
        paths: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        self._need(query, "query")
        try:
            project = await self._project(project_id)
            hits = await self._search.search(
                project,
                query,
                limit=max(1, min(limit, _MAX_HITS)),
                branch=branch,
                languages=languages or (),
                paths=paths or (),
                kinds=kinds or (),
            )
            # An empty answer would say that there is no such code, where there is only no such filter.
            unknown = (
                ""
                if hits
                else await self._search.unknown_filters(
                    project, branch=branch, languages=languages or (), kinds=kinds or ()
                )
            )
        except CorralError as error:
            raise self._tool_error(str(error)) from error
        if unknown:
            raise self._tool_error(unknown)
        return [_shown(hit) for hit in hits]

    def _need(self, value: str, name: str) -> None:
        if not value.strip():
            raise self._tool_error(f"expected some text as {name}, got {value!r}")

    async def definitions(self, project_id: str, name: str, branch: str) -> list[dict[str, Any]]:
        self._need(name, "name")
        try:
            found = await self._search.definitions(await self._project(project_id), name, branch=branch)
        except CorralError as error:
            raise self._tool_error(str(error)) from error
        return [asdict(symbol) for symbol in found]

    async def context(self, project_id: str, query: str, max_tokens: int, branch: str) -> list[dict[str, Any]]:
        self._need(query, "query")
        try:
            hits = await self._search.context(
                await self._project(project_id), query, max_tokens=max(100, min(max_tokens, _MAX_TOKENS)), branch=branch
            )
        except CorralError as error:
            raise self._tool_error(str(error)) from error
        return [_shown(hit) for hit in hits]

    async def around(self, project_id: str, path: str, max_tokens: int, branch: str) -> dict[str, Any]:
        self._need(path, "path")
        try:
            found = await self._search.neighbourhood(
                await self._project(project_id),
                self._inside(path),
                max_tokens=max(100, min(max_tokens, _MAX_TOKENS)),
                branch=branch,
            )
        except CorralError as error:
            raise self._tool_error(str(error)) from error
        return {
            "path": found.path,
            "symbols": [_shown_symbol(symbol) for symbol in found.symbols],
            "imports": list(found.imports),
            "imported_files": list(found.imported_files),
            "importers": list(found.importers),
            "tests": list(found.tests),
            "callers": [_shown(hit) for hit in found.callers],
            "left_out": found.left_out,
        }

    def _inside(self, path: str) -> str:
        """A path in the folder that is served, however the agent wrote it."""
        if self._folder is not None and Path(path).is_relative_to(root := self._folder.root.resolve()):
            return Path(path).relative_to(root).as_posix()
        return path

    async def _project(self, project_id: str) -> str:
        if self._folder is None:
            asking = caller()
            if asking is not None and not asking.may_use_project(project_id):  # as if it did not exist
                raise self._tool_error(str(not_indexed(project_id)))
            return project_id
        async with self._fresh:  # one refresh at a time; whoever waited finds nothing left to do
            await self._folder.refresh()
        return self._folder.project_id


def _named(*tools: Any) -> dict[str, Any]:
    return {tool.__name__: tool for tool in tools}


def _shown(hit: SearchHit) -> dict[str, Any]:
    return asdict(hit)


def _shown_symbol(symbol: StoredSymbol) -> dict[str, Any]:
    """A definition in a file that is named already."""
    shown = asdict(symbol)
    del shown["path"]
    return shown


def serve(*, folder: Path | None, http_port: int | None, host: str = "127.0.0.1") -> None:
    """Run ``corral mcp`` until the client hangs up, or until a signal over HTTP.

    Args:
        folder: Serve this folder, indexed under the data folder; None serves the projects that workers indexed.
        http_port: Listen there; None talks over standard input and output.
        host: Bind address for HTTP. For projects the same tokens are asked for as by the HTTP API, once there are any;
            a folder has no login, so keep it on loopback.

    Raises:
        ConfigurationError: A setting is wrong, or there is no such folder.
        ExtraMissing: An extra is not installed.
    """
    from corral.adapters.embedder.factory import make_embedder  # noqa: PLC0415 - the ``index`` extra
    from corral.adapters.index.factory import make_index_store  # noqa: PLC0415 - likewise
    from corral.adapters.index.local import LocalIndexStore  # noqa: PLC0415 - likewise

    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"expected a folder to serve, got {str(folder)!r}")
    settings = read_settings()
    # A folder of this machine is nobody else's business.
    indexes = settings.data_dir / "indexes"
    store = LocalIndexStore(indexes) if folder else make_index_store(settings)
    embedder = make_embedder(settings)
    local = LocalFolder(folder, store, embedder, nested=settings.index_nested) if folder else None
    if local is not None:
        folders = IndexedFolders(indexes, store)
        folders.remember(local.project_id, local.root)
        folders.forget_gone()
    server = make_server(CodeSearch(store, embedder), folder=local)
    if http_port is None:
        serve_stdio(server)
    elif local is not None:
        server.run("streamable-http", host=host, port=http_port, stateless_http=True, json_response=True)
    else:
        asyncio.run(_serve_projects(server, settings, host, http_port))


async def _serve_projects(server: MCPServer, settings: Settings, host: str, port: int) -> None:
    import uvicorn  # noqa: PLC0415 - the ``mcp`` extra brings it

    from corral.client import Corral  # noqa: PLC0415 - a folder or stdio needs no Redis

    async with Corral(settings=settings) as corral:
        authenticator = Authenticator(
            TokenStore(corral.redis, prefix=corral.namespace), JwtVerifier.from_settings(settings)
        )
        await authenticator.refuse_public_bind(host)
        app = http_app(server, host=host, authenticator=authenticator)
        await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="error")).serve()
