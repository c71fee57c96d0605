"""Everything that a pull-request job needs, around one repository."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.memory_redis import MemoryRedis
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.adapters.forge.registry import Forges
from corral.adapters.secrets import Passage, SecretFinding, SecretScanner
from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.jobs.pr_creation.handler import PrCreationHandler
from corral.jobs.pr_creation.payload import PrCreation, PrResult
from corral.jobs.pr_creation.records import PullRequestRecords
from corral.projects import Project, ProjectStore
from corral.testing.reporter import RecordingReporter, job_for
from corral.wire.commands import RedisCommands

AUTHOR = "Robot <robot@example.org>"


class Unscanned:
    """Finds nothing, at once; keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[Passage] = []

    async def scan(self, passages: Sequence[Passage], *, allowed: Collection[str] = frozenset()) -> list[SecretFinding]:
        self.shown += passages
        return []


class PullRequestBench:
    """A repository with its forge, and a worker's parts to open pull requests there."""

    def __init__(
        self,
        folder: Path,
        *,
        repository: Repository | None = None,
        project: Mapping[str, Any] | None = None,
        forges: Forges | None = None,
        redis: RedisCommands | None = None,
        scanner: SecretScanner | None = None,
        namespace: str = "corral:bull",
    ) -> None:
        self.repository = repository or Repository(folder / "forge")
        self.redis = redis or MemoryRedis()
        fields: dict[str, Any] = {"id": "shop", "repository": str(self.repository.bare), **(project or {})}
        self.project = Project(**fields)
        self.forges = forges or Forges()
        self.projects = ProjectStore(self.redis, prefix=namespace)
        self.commits = CommitStore(self.redis, prefix=namespace)
        self.data_dir = folder / "data"
        self.workspaces = Workspaces(data_dir=self.data_dir, commits=self.commits, remote_of=self.forges.remote)
        self.handler = PrCreationHandler(
            projects=self.projects,
            workspaces=self.workspaces,
            forges=self.forges,
            records=PullRequestRecords(self.redis, prefix=namespace),
            scanner=scanner or Unscanned(),
        )
        self.local = LocalForge()
        self.news = RecordingReporter()

    async def generate(
        self,
        files: Mapping[str, str | None],
        *,
        branch: str = "corral/7",
        rev: str | None = None,
        message: str = "Add a thing",
        trailers: Mapping[str, str] | None = None,
    ) -> str:
        """A commit as code generation leaves it."""
        async with self.workspaces.checkout(self.project, rev) as workspace:
            for name, content in files.items():
                path = workspace.path / name
                if content is None:
                    path.unlink()
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            return await workspace.commit_all(
                branch=branch, message=message, author=AUTHOR, trailers=trailers or {"Corral-Task": "7"}
            )

    async def open(self, commit: str, **fields: Any) -> PrResult:
        """Run one pull-request job."""
        await self.projects.add(self.project, replace=True)
        asked: dict[str, Any] = {
            "task_id": "7",
            "user_id": "ada",
            "project_id": self.project.id,
            "commit_id": commit,
            "title": "Add a thing",
            "description": "It adds a thing.",
            "source_branch": "corral/7",
            "target_branch": "main",
            **fields,
        }
        return await self.handler(job_for(PrCreation(**asked), job_type="pr-creation", reporter=self.news))
