"""The handler of codebase-indexing jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from corral.adapters.index.port import IndexName, IndexStore
from corral.errors import SearchFailed, UnknownProject
from corral.jobs.codebase_indexing.build import BuildOptions
from corral.jobs.codebase_indexing.building import Builder
from corral.jobs.codebase_indexing.nested import NestedSource, same_repository, submodule_addresses
from corral.jobs.codebase_indexing.payload import CodebaseIndexing, IndexingResult
from corral.jobs.codebase_indexing.source import CommitSource, EntryKind, Source
from corral.queue.job import Job


class HasPath(Protocol):
    """A bare mirror."""

    @property
    def path(self) -> Path:
        """Its git directory."""
        ...


class Mirrors(Protocol):
    """What is needed of ``corral.adapters.workspace.Workspaces``."""

    async def resolve(self, project: Any, rev: str | None = None) -> str:
        """Bring the mirror up to date and name the commit; None is the default branch."""
        ...

    async def knows(self, project: Any, rev: str) -> bool:
        """Whether ``resolve`` would find a revision, by what was fetched last."""
        ...

    def mirror(self, project: Any) -> HasPath:
        """The project's mirror."""
        ...


class Projects(Protocol):
    """What is needed of ``corral.projects.ProjectStore``."""

    async def get(self, project_id: str) -> Any:
        """A registered project."""
        ...


class CodebaseIndexingHandler:
    """Makes a project searchable.

    Effects:
        Fetches the project's mirror; publishes a generation of its index in the store, and removes the indexes of
        branches that are gone.
    Safe to repeat:
        An index that already shows the commit is left as it is, and a generation is published whole or not at all.

    Args:
        projects: The registered projects.
        mirrors: Their repositories.
        builder: Builds the indexes.
        store: Where the builder keeps them.
        ignore: More patterns to leave out, in .gitignore's syntax.
    """

    def __init__(
        self,
        projects: Projects,
        mirrors: Mirrors,
        builder: Builder,
        store: IndexStore,
        *,
        ignore: tuple[str, ...] = (),
    ) -> None:
        self._projects = projects
        self._mirrors = mirrors
        self._builder = builder
        self._store = store
        self._ignore = ignore

    async def __call__(self, job: Job[CodebaseIndexing]) -> IndexingResult:
        """Index the commit that the payload names.

        Raises:
            UnknownProject: No such project, or none of those that are its submodules.
            GitFailed: The repository can't be fetched or read.
            SearchFailed: The index can't be written, or the embedder failed.
            ProcessDied: Building crashed, again and again.
        """
        asked = job.data
        project = await self._projects.get(asked.project_id)
        await job.progress({"percent": 0, "stage": "fetching"})
        # Listed before the fetch: whatever branch had an index by then, the fetch would bring, were it still there.
        indexed = [] if asked.commit_id else await asyncio.to_thread(self._store.branches, project.id)
        commit = await self._mirrors.resolve(project, asked.commit_id or asked.branch)
        source = await self._with_submodules(project, CommitSource(self._mirrors.mirror(project).path, commit))
        branch = "" if asked.branch in {None, getattr(project, "default_branch", None)} else str(asked.branch)
        options = BuildOptions(full=asked.full_reindex, files=asked.files, ignore=self._ignore)
        done = await self._builder.build(job, source, IndexName(asked.project_id, branch), options)
        built, state = done.report, done.report.state
        await job.log(
            f"indexed {commit[:12]}: {state.files} files, {state.chunks} chunks; {built.indexed} read, "
            f"{built.reused} reused, {built.removed} removed in {built.seconds:.2f} s"
        )
        await self._forget_gone(job, project, set(indexed) - {"", branch})
        await self._forget_removed(project)
        await job.progress({"percent": 100, "stage": "done"})
        return IndexingResult(
            project_id=asked.project_id,
            commit=state.commit,
            files=state.files,
            chunks=state.chunks,
            languages=dict(state.languages),
            skipped=dict(state.skipped),
            secrets_masked=done.secrets_masked,
            reused=built.reused,
            seconds=round(built.seconds, 3),
            embedder=state.embedder,
            cost_usd=built.cost_usd,
        )

    async def _forget_gone(self, job: Job[Any], project: Any, indexed: set[str]) -> None:
        """Remove the indexes of branches that no job can name any more."""
        for branch in sorted(indexed):
            if await self._mirrors.knows(project, branch):
                continue
            try:
                await asyncio.to_thread(self._store.remove, project.id, branch)
            except SearchFailed as error:
                await job.log(f"the index of the branch {branch!r}, which is gone, stays until the next job: {error}")
            else:
                await job.log(f"removed the index of the branch {branch!r}, which is gone")

    async def _forget_removed(self, project: Any) -> None:
        """Leave nothing behind of a project that was removed while it was indexed."""
        try:
            await self._projects.get(project.id)
        except UnknownProject:
            await asyncio.to_thread(self._store.remove, project.id)
            raise

    async def _with_submodules(self, project: Any, source: CommitSource) -> Source:
        """The commit with those submodules that are projects which its own registration names."""
        allowed: Sequence[str] = getattr(project, "submodules", ())
        if not allowed:
            return NestedSource(source, {})  # an earlier index may have had some
        git_dir = self._mirrors.mirror(project).path
        addresses = await asyncio.to_thread(submodule_addresses, git_dir, source.commit, project.repository)
        others = [await self._projects.get(other) for other in allowed]
        inner: dict[str, Source] = {}
        for entry in await asyncio.to_thread(source.entries) if addresses else ():
            address = addresses.get(entry.path)
            if entry.kind is not EntryKind.SUBMODULE or address is None:
                continue
            other = next((one for one in others if same_repository(one.repository, address)), None)
            if other is not None:
                commit = await self._mirrors.resolve(other, entry.blob)
                inner[entry.path] = CommitSource(self._mirrors.mirror(other).path, commit)
        return NestedSource(source, inner)
