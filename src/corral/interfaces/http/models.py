"""What goes in and out over HTTP. JSON is camelCase, as on the queue's wire; snake_case is accepted on input too."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, Strict, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from corral.adapters.forge.port import PullRequestState
from corral.queue.job import JobState
from corral.queue.options import ChildFailure
from corral.queue.status import Cancellation

JobTypeName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f:/]+$")]
JobId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x20\x7f:/]+$")]
CustomJobId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.@+-]*$")]
"""Not a plain number: Redis counts those itself."""
ScheduleId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$")]

_TEN_YEARS_MS = 315_360_000_000
_TEN_YEARS_S = _TEN_YEARS_MS // 1000
_EXAMPLE_DATA: dict[str, JsonValue] = {
    "taskId": "123",
    "userId": "user-id",
    "prompt": "Build auth system",
    "projectId": "proj-id",
}


_EXAMPLE_PULL_REQUEST: dict[str, JsonValue] = {
    "number": 7,
    "title": "Add authentication",
    "state": "open",
    "draft": False,
    "sourceBranch": "feature/auth",
    "targetBranch": "main",
    "head": "3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
    "base": "e83c5163316f89bfbde7d9ab23ca2e25604af290",
    "labels": ["corral"],
    "reviewers": [],
    "assignees": [],
    "createdAt": "2030-01-31T09:00:00Z",
    "updatedAt": "2030-01-31T09:00:00Z",
    "mergedAt": None,
    "mergeCommit": None,
}


Int = Annotated[int, Strict()]
"""``true`` and ``"3"`` are none."""
Bool = Annotated[bool, Strict()]


class Inbound(BaseModel):
    """What a caller sends: unknown fields are errors, as they are typos."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        """JSON Schema takes ``3.0`` for an integer."""
        if not isinstance(given, dict):
            return given
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in given.items()
        }


class Outbound(BaseModel):
    """What Corral answers."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        use_attribute_docstrings=True,
        from_attributes=True,
    )


class BackoffOption(Inbound):
    """How long a failed job waits before it is tried again."""

    type: Literal["exponential", "fixed"] = "exponential"
    delay_ms: Int = Field(
        default=1000, ge=0, le=_TEN_YEARS_MS, validation_alias=AliasChoices("delayMs", "delay_ms", "delay")
    )
    """Before the first retry; doubles with each one when exponential."""
    jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the delay that is random."""


class DeduplicationOption(Inbound):
    """Add nothing while a job of the same deduplication id is there."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    ttl_ms: Int | None = Field(
        default=None, ge=1, le=_TEN_YEARS_MS, validation_alias=AliasChoices("ttlMs", "ttl_ms", "ttl")
    )
    """How long the id is kept; none: until the job ends."""
    extend: Bool = False
    """Each further add begins ``ttlMs`` anew."""
    replace: Bool = False
    """Each further add replaces a delayed job's data (debounce)."""
    keep_last_if_active: Bool = False
    """While the job runs, the last further add waits, to run after it."""


class JobOptions(Inbound):
    """How the job is to be run."""

    priority: Int | None = Field(default=None, ge=0, le=2_097_151)
    """0 is the most urgent; critical 0, high 1, medium 5 (default), low 10."""
    delay_ms: Int | None = Field(
        default=None, ge=0, le=_TEN_YEARS_MS, validation_alias=AliasChoices("delayMs", "delay_ms", "delay")
    )
    """Not before this many milliseconds from now."""
    run_at: Annotated[datetime, Field(json_schema_extra={"format": "date-time"})] | None = None
    """Not before this instant; with its offset from UTC. Not together with ``delayMs``."""
    attempts: Int | None = Field(default=None, ge=1, le=1000)
    """How often it is tried in all."""
    backoff: BackoffOption | None = None
    job_id: CustomJobId | None = None
    """An id of your own; adding it again adds nothing."""
    lifo: Bool = False
    """Before the others of its priority instead of after them."""
    deduplication: DeduplicationOption | None = None
    keep_completed_s: Int | None = Field(default=None, ge=0, le=_TEN_YEARS_S)
    """How long it is kept once completed."""
    keep_failed_s: Int | None = Field(default=None, ge=0, le=_TEN_YEARS_S)
    """How long it is kept once failed."""


class AddJob(Inbound):
    """One job to add."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": _EXAMPLE_DATA, "options": {"priority": 1, "attempts": 3}}]}
    )

    data: dict[str, Any]
    """The payload, as the job type's model has it. ``userId`` is filled in with the caller when missing."""
    options: JobOptions = JobOptions()


class AddJobs(Inbound):
    """Many jobs of one type and the same options, added at once: all or none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_EXAMPLE_DATA], "options": {"priority": 5}}]})

    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]
    """Payloads."""
    options: JobOptions = JobOptions()
    """``jobId`` and ``deduplication`` name one job, so they can't be given here."""


class AddedJob(Outbound):
    """A job that is in the queue now."""

    id: str
    job_type: str


class AddedJobs(Outbound):
    """Jobs that are in the queue now, in the order of the items."""

    jobs: list[AddedJob]


class JobView(Outbound):
    """One job, whole."""

    id: str
    job_type: str
    state: JobState
    progress: float
    """0 to 100."""
    progress_detail: dict[str, Any] | None
    """What else the handler reported, for example ``stage``."""
    result: Any
    """The handler's, once completed."""
    error: str | None
    """Why the last attempt failed."""
    stacktrace: list[str]
    """One text for each failed attempt, oldest first: which one it was, and the error's kind and message; with the
    worker's stack for callers with ``manage``."""
    attempts: int
    """Made so far."""
    max_attempts: int
    crashes: int
    """Workers that died with it."""
    priority: int
    delay_ms: int
    data: Any
    user_id: str | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    parent: str | None
    """The flow's parent: ``prefix:queue:id``."""
    worker: str | None
    """Who has it, or had it last."""
    schedule_id: str | None
    """The schedule that made it."""


class JobSummary(Outbound):
    """One job in a list: without payload, result and stack."""

    id: str
    job_type: str
    state: JobState
    progress: float
    error: str | None
    attempts: int
    max_attempts: int
    priority: int
    user_id: str | None
    project_id: str | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class JobPage(Outbound):
    """Some jobs, and where to go on."""

    jobs: list[JobSummary]
    next_cursor: str | None
    """Give it back as ``cursor``. A filtered search may answer fewer jobs than asked and still have a next page."""


class LogPage(Outbound):
    """Some of a job's log lines."""

    lines: list[str]
    total: int
    next_offset: int
    """Where the next lines will be."""


class QueueView(Outbound):
    """One queue at a glance."""

    job_type: str
    waiting: int
    """Ready to run, prioritized ones included."""
    active: int
    completed: int
    failed: int
    delayed: int
    total: int
    prioritized: int
    waiting_children: int
    paused: bool


class Queues(Outbound):
    """All queues."""

    queues: list[QueueView]


class JobTypeView(Outbound):
    """A declared job type and the form of its payload and result."""

    name: str
    description: str
    payload_schema: dict[str, Any] | None
    """JSON Schema; none: anything."""
    result_schema: dict[str, Any] | None


class JobTypes(Outbound):
    """All declared job types."""

    job_types: list[JobTypeView]


class Order(StrEnum):
    """Which jobs come first."""

    NEWEST = "newest"
    OLDEST = "oldest"


class CancelJob(Inbound):
    """Why a job is cancelled."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "superseded"}]})

    reason: Annotated[str, StringConstraints(max_length=1000)] = ""


class CancelOutcome(Outbound):
    """What cancelling did."""

    id: str
    job_type: str
    outcome: Cancellation
    """``removed``: it had not started and is gone. ``stopping``: its worker has been told and ends it as failed."""


CleanableState = Literal[JobState.COMPLETED, JobState.FAILED, JobState.WAITING, JobState.DELAYED, JobState.PRIORITIZED]


class CleanQueue(Inbound):
    """Which finished jobs to remove."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"graceMs": 86_400_000, "states": ["completed"]}]})

    grace_ms: Int = Field(default=86_400_000, ge=0, le=_TEN_YEARS_MS)
    """Only jobs that ended at least this long ago."""
    states: Annotated[list[CleanableState], Field(min_length=1)] = [
        JobState.COMPLETED,
        JobState.FAILED,
    ]
    limit: Int = Field(default=0, ge=0, le=1_000_000)
    """At most this many; 0: all."""


class Cleaned(Outbound):
    """Ids of the jobs that are gone."""

    removed: list[str]


class DrainQueue(Inbound):
    """Remove what waits."""

    delayed: Bool = False
    """Delayed jobs too."""


class RetryFailed(Inbound):
    """Put finished jobs back into the queue."""

    state: Literal[JobState.FAILED, JobState.COMPLETED] = JobState.FAILED
    limit: Int = Field(default=1000, ge=1, le=100_000)


class WorkerView(Outbound):
    """One worker of a queue, in whatever language."""

    name: str
    job_type: str
    address: str
    """From where it is connected to Redis."""
    age_s: int
    idle_s: int
    active: tuple[str, ...]
    """Ids of the jobs in its hands."""


class Workers(Outbound):
    """The workers of a queue."""

    workers: list[WorkerView]


class UserShareView(Outbound):
    """One user's part of a queue."""

    user_id: str | None
    """None: the jobs that name no user."""
    waiting: int
    """Ready to run, and in line."""
    active: int
    held: int
    """Ready to run, and kept back as so many of this user's jobs are active as may be; counted as delayed elsewhere."""


class QueueUsers(Outbound):
    """How a queue stands by user."""

    users: list[UserShareView]
    """The one with the most jobs in line first."""


class _Schedule(Inbound):
    data: dict[str, Any] = {}
    """The payload of its jobs."""
    limit: Int | None = Field(default=None, ge=1, le=1_000_000_000)
    """End after so many jobs."""


class CronSchedule(_Schedule):
    """Add a job at the times of a cron expression."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"cron": "0 3 * * *", "timeZone": "Europe/Berlin", "data": {"projectId": "proj-id"}}]
        }
    )

    cron: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Five fields, or six with seconds first."""
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """IANA name; UTC when missing."""


class IntervalSchedule(_Schedule):
    """Add a job at a steady pace."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"everyMs": 60000, "data": {"projectId": "proj-id"}}]})

    every_ms: Int = Field(ge=1000, le=_TEN_YEARS_MS)


class ScheduleView(Outbound):
    """One schedule."""

    id: str
    job_type: str
    cron: str | None
    time_zone: str | None
    every_ms: int | None
    next_run_at: datetime | None
    count: int
    """How many jobs it has made."""
    limit: int | None
    data: Any


class Schedules(Outbound):
    """The schedules of a queue."""

    schedules: list[ScheduleView]


class FlowNode(Inbound):
    """A job and the jobs that it waits for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "jobType": "pr-creation",
                    "data": {
                        "taskId": "123",
                        "userId": "user-id",
                        "projectId": "proj-id",
                        "commitId": "0a1b2c3d",
                        "title": "Add authentication",
                        "description": "Implements JWT auth",
                        "sourceBranch": "feature/auth",
                        "targetBranch": "main",
                    },
                    "children": [
                        {
                            "jobType": "test-execution",
                            "data": {
                                "taskId": "123",
                                "userId": "user-id",
                                "projectId": "proj-id",
                                "testCommand": "npm test",
                            },
                        }
                    ],
                }
            ]
        }
    )

    job_type: JobTypeName
    data: dict[str, Any]
    options: JobOptions = JobOptions()
    on_failure: ChildFailure = ChildFailure.FAIL_PARENT
    """What the parent does when this job has failed for good."""
    children: Annotated[list[FlowNode], Field(max_length=100)] = []
    """They run first; the parent when all have ended."""


class IndexingJob(Outbound):
    """A job that a push led to, or that was there already."""

    project_id: str
    branch: str
    job_id: str


class IndexingJobs(Outbound):
    """What a webhook's message led to."""

    jobs: list[IndexingJob]


class AddedFlow(AddedJob):
    """A flow that is in the queues now."""

    children: list[AddedFlow]


class AddProject(Inbound):
    """A repository to register."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"id": "proj-id", "repository": "https://github.com/owner/name", "testCommand": "python -m pytest -q"}
            ]
        }
    )

    id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    repository: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """``https://…``, or an absolute path on the server; never with a token in it."""
    default_branch: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "main"
    forge: Literal["local", "github", "gitlab", "gitea"] | None = None
    """Guessed from the repository's host when left out."""
    forge_url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    test_command: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    setup_command: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    allow_workflow_changes: Bool = False
    submodules: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=100)
    ] = []
    """Registered projects that are indexed as submodules of this one; whoever may search this one sees them."""


class ProjectView(Outbound):
    """A registered repository."""

    id: str
    repository: str
    default_branch: str
    forge: str
    forge_url: str | None
    test_command: str | None
    setup_command: str | None
    allow_workflow_changes: bool
    submodules: list[str]
    created_at: datetime


class Projects(Outbound):
    """Registered repositories."""

    projects: list[ProjectView]


class PullRequestSummary(Outbound):
    """A pull request on the local forge, as a line of a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE_PULL_REQUEST]})

    number: int
    title: str
    state: PullRequestState
    draft: bool
    source_branch: str
    target_branch: str
    head: str
    """Tip of the source branch; once merged or closed, what it was then."""
    base: str
    """Tip of the target branch when it was opened; once merged, just before."""
    labels: list[str]
    reviewers: list[str]
    assignees: list[str]
    created_at: datetime
    updated_at: datetime
    merged_at: datetime | None
    merge_commit: str | None


class PullRequestPage(Outbound):
    """Pull requests, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"pullRequests": [_EXAMPLE_PULL_REQUEST], "nextCursor": None}]}
    )

    pull_requests: list[PullRequestSummary]
    next_cursor: str | None
    """Give it back as ``cursor``."""


class ChangedFile(Outbound):
    """A file that a pull request changes; a renamed one is a deleted and an added one."""

    path: str
    status: str
    lines_added: int
    lines_removed: int
    binary: bool


class PullRequestView(PullRequestSummary):
    """A pull request with all that is needed to judge it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE_PULL_REQUEST,
                    "body": "Adds JWT auth.\n\n## Tests\n\nAll tests pass.",
                    "testSummary": "All tests pass.",
                    "conflicts": [],
                    "files": [
                        {"path": "auth.py", "status": "added", "linesAdded": 1, "linesRemoved": 0, "binary": False}
                    ],
                    "diff": "diff --git a/auth.py b/auth.py\n…",
                }
            ]
        }
    )

    body: str
    """Markdown, by whoever or whatever opened it."""
    test_summary: str | None
    """What the body says of the tests."""
    conflicts: list[str]
    """Files that can't be merged just now."""
    files: list[ChangedFile]
    diff: str | None
    """A unified diff from where the branch left its target; none: it is larger than 4 MiB."""


class SearchHit(Outbound):
    """A piece of code."""

    path: str
    start_line: int
    end_line: int
    symbol: str
    """What is defined there; empty when nothing is."""
    kind: str
    language: str
    score: float
    """Comparable within one answer only."""
    why: str
    """What matched."""
    text: str


class SearchHits(Outbound):
    """Pieces of code, best first."""

    hits: list[SearchHit]


class Definition(Outbound):
    """Something defined in a file that is named already."""

    name: str
    kind: str
    start_line: int
    end_line: int
    parent: str
    """What it is inside of; empty at the top."""


class Neighbourhood(Outbound):
    """What is around a file, within a budget of tokens."""

    path: str
    symbols: list[Definition]
    imports: list[str]
    """As written."""
    imported_files: list[str]
    importers: list[str]
    tests: list[str]
    callers: list[SearchHit]
    """Code that uses its definitions, best first."""
    left_out: int
    """Entries that the budget had no room for."""


class Health(Outbound):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Outbound):
    """The process can do its work."""

    status: Literal["ready"] = "ready"
    redis_ms: float
    """Round trip to Redis."""


class Me(Outbound):
    """Who the caller is."""

    user_id: str
    scopes: list[str]
    kind: str
    projects: list[str] | None
    """None: all."""
    expires_at: datetime | None


class CreateToken(Inbound):
    """A token to make."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"userId": "user-id", "scopes": ["submit", "read"], "name": "laptop"}]}
    )

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+$")]
    scopes: Annotated[list[Literal["submit", "read", "manage", "admin"]], Field(min_length=1, max_length=4)]
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    lifetime_s: Int | None = Field(default=None, ge=1, le=_TEN_YEARS_S)
    projects: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=1000)] | None
    ) = None
    """The only projects that it may use; none: all."""
    request_limit: Int | None = Field(default=None, ge=0, le=1_000_000_000)
    """Requests a minute and endpoint; 0: no limit."""


class TokenView(Outbound):
    """A token, without its secret."""

    id: str
    user_id: str
    scopes: list[str]
    name: str
    created_at: datetime
    expires_at: datetime | None
    projects: list[str] | None
    request_limit: int | None


class CreatedToken(TokenView):
    """A new token: the only time that it is shown."""

    token: str


class Tokens(Outbound):
    """All tokens that still work."""

    tokens: list[TokenView]
