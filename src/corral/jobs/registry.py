"""The four job types, and the parts that their handlers share.

Declaring a job type must be cheap: a web tier adds jobs without the model, the index or the sandbox being installed. So
a part is made when a handler first needs it, and only then is its module imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from corral.errors import ConfigurationError, UnknownProject
from corral.jobs.job_type import JobType
from corral.queue.definition import JobTypeSpec, PerUser, RateLimit
from corral.queue.job import Job
from corral.queue.options import JobOptions

if TYPE_CHECKING:
    from corral.adapters.embedder.port import Embedder
    from corral.adapters.forge.registry import Forges
    from corral.adapters.index.port import IndexStore
    from corral.adapters.llm.port import LanguageModel
    from corral.adapters.llm.redis_client import RedisClient as PipeliningClient
    from corral.adapters.llm.response_cache import ResponseCache
    from corral.adapters.workspace import Workspaces
    from corral.jobs.codebase_indexing.building import ProcessBuilder
    from corral.jobs.codebase_indexing.search import CodeSearch
    from corral.jobs.test_execution.artifacts import ArtifactStore
    from corral.jobs.test_execution.runner import TestRunner
    from corral.projects import Project, ProjectStore
    from corral.settings import Settings
    from corral.wire.connection import RedisClient

_LOG = logging.getLogger(__name__)

AnyHandler = Callable[[Job[Any]], Awaitable[Any]]


class Parts:
    """What the handlers of one process share, each part made when it is first used.

    Args:
        settings: Says which ones.
        redis: A connected client; asked for when a part needs it.
        namespace: Start of the keys of what is kept there.
        quick: The client for what is asked often, one key at a time; default ``redis``.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Callable[[], RedisClient],
        *,
        namespace: str,
        quick: Callable[[], PipeliningClient] | None = None,
    ) -> None:
        self.settings = settings
        self._redis = redis
        self._quick = quick or redis
        self._namespace = namespace
        self._models: dict[str, LanguageModel] = {}
        self._opening = asyncio.Lock()

    @cached_property
    def projects(self) -> ProjectStore:
        """The registered projects."""
        from corral.projects import ProjectStore  # noqa: PLC0415 - see the module's head; so below

        return ProjectStore(self._redis(), prefix=self._namespace)

    @cached_property
    def forges(self) -> Forges:
        """Where pull requests are opened."""
        from corral.adapters.forge.factory import make_forges  # noqa: PLC0415

        return make_forges(self.settings, self._redis())

    @cached_property
    def workspaces(self) -> Workspaces:
        """Mirrors, and a worktree for each job."""
        from corral.adapters.mirror import Signing  # noqa: PLC0415
        from corral.adapters.workspace import Workspaces  # noqa: PLC0415
        from corral.commits import CommitStore  # noqa: PLC0415

        key = self.settings.commit_signing_key
        return Workspaces(
            data_dir=self.settings.data_dir,
            commits=CommitStore(self._redis(), prefix=self._namespace),
            remote_of=self.forges.remote,
            signing=None if key is None else Signing(key),
        )

    @cached_property
    def test_runner(self) -> TestRunner:
        """Runs tests in the sandbox."""
        from corral.jobs.test_execution.runner import TestRunner  # noqa: PLC0415

        return TestRunner.from_settings(self.settings, artifacts=self.artifacts)

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """Files that test runs left."""
        from corral.jobs.test_execution.artifacts import RedisArtifacts  # noqa: PLC0415

        return RedisArtifacts(self._redis(), prefix=self._namespace)

    async def clear_leavings(self) -> None:
        """End and remove what sandboxes of killed workers left behind on this machine."""
        await self.test_runner.reap()

    @cached_property
    def embedder(self) -> Embedder:
        """Text to vectors."""
        from corral.adapters.embedder.factory import make_embedder  # noqa: PLC0415

        return make_embedder(self.settings)

    @cached_property
    def index_store(self) -> IndexStore:
        """Where indexes are kept."""
        from corral.adapters.index.factory import make_index_store  # noqa: PLC0415

        return make_index_store(self.settings)

    async def replace_project(self, project: Project) -> None:
        """Register a project in place of what is registered under its id, if anything is.

        The indexes of another repository go, as nobody should find its code in this project any more: before the
        project changes, for nobody would know of them after it, and only when it can.

        Raises:
            UnknownProject: One of its submodules is not registered; nothing has changed.
            SearchFailed: The index store can't be asked; the project has not changed.
        """
        await self.projects.check(project)
        try:
            moved = (await self.projects.get(project.id)).repository != project.repository
        except UnknownProject:
            moved = False
        if moved:
            await self.forget_indexes(project.id)
        await self.projects.add(project, replace=True)

    async def remove_project(self, project_id: str) -> None:
        """Forget a project and its indexes; a worker that is indexing it now removes what it makes.

        Raises:
            UnknownProject: None of this id is registered.
            SearchFailed: The index store can't be asked: the project is forgotten, its indexes stay.
        """
        await self.projects.remove(project_id)
        await self.forget_indexes(project_id)

    async def forget_indexes(self, project_id: str) -> None:
        """Remove all indexes of a project, as when its repository becomes another one.

        Raises:
            SearchFailed: The index store can't be asked.
        """
        try:
            store = self.index_store
        except (ConfigurationError, ModuleNotFoundError) as error:
            # A web tier without the index's extra has made none, and can't reach those of workers.
            _LOG.info("the indexes of project %r are not removed from here: %s", project_id, error)
            return
        await asyncio.to_thread(store.remove, project_id)

    @cached_property
    def index_builder(self) -> ProcessBuilder:
        """Builds indexes, in processes of their own."""
        from corral.jobs.codebase_indexing.building import ProcessBuilder  # noqa: PLC0415

        return ProcessBuilder(self.settings, size=self.settings.concurrency)

    @cached_property
    def code_search(self) -> CodeSearch:
        """Asks the indexes."""
        from corral.jobs.codebase_indexing.search import CodeSearch  # noqa: PLC0415

        return CodeSearch(self.index_store, self.embedder)

    @cached_property
    def response_cache(self) -> ResponseCache:
        """Models' answers, by what decides them."""
        from corral.adapters.llm.response_cache import ResponseCache  # noqa: PLC0415

        return ResponseCache(self._quick(), ttl=self.settings.llm_cache_ttl)

    async def open_model(self, name: str) -> LanguageModel:
        """A model by its name, its answers cached; opened once.

        Raises:
            ModelUnavailable: There is no such model, or its key is missing.
            ExtraMissing: Its client is not installed.
        """
        from corral.adapters.llm.cached_model import CachedModel  # noqa: PLC0415
        from corral.adapters.llm.choose import open_model  # noqa: PLC0415

        async with self._opening:
            model = self._models.get(name)
            if model is None:
                opened = await asyncio.to_thread(open_model, name, self.settings)
                model = self._models[name] = CachedModel(opened, self.response_cache)
            return model

    async def aclose(self) -> None:
        """Close what was made: models' processes and connections."""
        models, self._models = list(self._models.values()), {}
        for model in models:
            await model.close()
        made = vars(self)
        if (forges := made.pop("forges", None)) is not None:
            await forges.aclose()
        if (runner := made.pop("test_runner", None)) is not None:
            await runner.close()
        if (search := made.pop("code_search", None)) is not None:
            search.close()
        if (builder := made.pop("index_builder", None)) is not None:
            await builder.close()
        if (cache := made.pop("response_cache", None)) is not None:
            await cache.close()
        # These hold the client that is closed now.
        for name in ("workspaces", "embedder", "index_store", "projects"):
            made.pop(name, None)

    # --- the handlers

    def code_generation(self) -> AnyHandler:
        """The handler of ``code-generation``."""
        from corral.adapters.llm.budgets import Allowance, Budgets  # noqa: PLC0415
        from corral.jobs.code_generation.handler import CodeGenerationHandler  # noqa: PLC0415

        settings = self.settings
        return CodeGenerationHandler(
            settings=settings,
            projects=self.projects,
            workspaces=self.workspaces,
            open_model=self.open_model,
            tests=self.test_runner,
            search=self.code_search,
            redis=self._redis(),
            prefix=self._namespace,
            budgets=Budgets(
                self._redis(),
                prefix=self._namespace,
                user=Allowance(tokens=settings.user_tokens_per_day, usd=settings.user_usd_per_day),
                day=Allowance(tokens=settings.tokens_per_day, usd=settings.usd_per_day),
            ),
        )

    def test_execution(self) -> AnyHandler:
        """The handler of ``test-execution``."""
        from corral.jobs.test_execution.comparison import Baselines  # noqa: PLC0415
        from corral.jobs.test_execution.handler import TestExecutionHandler  # noqa: PLC0415

        return TestExecutionHandler(
            projects=self.projects,
            workspaces=self.workspaces,
            runner=self.test_runner,
            baselines=Baselines(self._redis(), prefix=self._namespace),
            timeout=self.settings.test_timeout,
        )

    def pr_creation(self) -> AnyHandler:
        """The handler of ``pr-creation``."""
        from corral.adapters.secrets import BetterleaksScanner  # noqa: PLC0415
        from corral.jobs.pr_creation.handler import PrCreationHandler  # noqa: PLC0415
        from corral.jobs.pr_creation.records import PullRequestRecords  # noqa: PLC0415

        return PrCreationHandler(
            projects=self.projects,
            workspaces=self.workspaces,
            forges=self.forges,
            records=PullRequestRecords(self._redis(), prefix=self._namespace),
            scanner=BetterleaksScanner(),
            task_url=self.settings.task_url,
        )

    def codebase_indexing(self) -> AnyHandler:
        """The handler of ``codebase-indexing``."""
        from corral.jobs.codebase_indexing.handler import CodebaseIndexingHandler  # noqa: PLC0415

        return CodebaseIndexingHandler(self.projects, self.workspaces, self.index_builder, self.index_store)


class _WhenNeeded:
    """A handler that is made for its first job."""

    def __init__(self, make: Callable[[], AnyHandler], prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._prepare = prepare
        self._making = asyncio.Lock()
        self._handler: AnyHandler | None = None

    async def __call__(self, job: Job[Any]) -> Any:
        """Run the job."""
        if self._handler is None:
            async with self._making:
                if self._handler is None:
                    # Imports of a second or more must not hold up the other lanes of the loop.
                    made = await asyncio.to_thread(self._make)
                    if self._prepare is not None:
                        await self._prepare()
                    self._handler = made
        return await self._handler(job)


def builtin_job_types(parts: Parts, defaults: JobOptions) -> tuple[JobTypeSpec, ...]:
    """The four job types.

    Args:
        parts: Their handlers' parts.
        defaults: Options of their jobs.
    """
    from corral.jobs.code_generation.payload import CodeGeneration  # noqa: PLC0415 - their models are built when a Corral is made
    from corral.jobs.code_generation.result import CodeGenerationResult  # noqa: PLC0415
    from corral.jobs.codebase_indexing.payload import CodebaseIndexing, IndexingResult  # noqa: PLC0415
    from corral.jobs.pr_creation.payload import PrCreation, PrResult  # noqa: PLC0415
    from corral.jobs.test_execution.payload import TestExecution  # noqa: PLC0415
    from corral.jobs.test_execution.report import TestReport  # noqa: PLC0415

    settings = parts.settings
    limit = (
        RateLimit(max_jobs=settings.rate_limit_max, duration=settings.rate_limit_duration)
        if settings.rate_limit_max
        else None
    )
    bounds = settings.user_max_waiting, settings.user_max_active
    shared = settings.fair or bounds != (None, None)
    per_user = PerUser(max_waiting=bounds[0], max_active=bounds[1]) if shared else None
    clear = parts.clear_leavings
    return tuple(
        JobTypeSpec(
            name=str(name),
            payload=payload,
            result=result,
            handler=_WhenNeeded(make, prepare),
            rate_limit=limit,
            defaults=defaults,
            per_user=per_user,
            description=payload.__doc__ or "",
        )
        for name, payload, result, make, prepare in (
            (JobType.CODE_GENERATION, CodeGeneration, CodeGenerationResult, parts.code_generation, clear),
            (JobType.TEST_EXECUTION, TestExecution, TestReport, parts.test_execution, clear),
            (JobType.PR_CREATION, PrCreation, PrResult, parts.pr_creation, None),
            (JobType.CODEBASE_INDEXING, CodebaseIndexing, IndexingResult, parts.codebase_indexing, None),
        )
    )
