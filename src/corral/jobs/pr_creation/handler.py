"""The pull-request job: checks a commit, pushes its branch and opens the pull request, once.

Each step looks at what is there before it changes anything, so that a job that was killed anywhere goes on from where
the forge and git stand, not from where it thinks it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from corral.adapters.forge.port import Extras, Forge, NewPullRequest, PullRequest, PullRequestState, Refusal
from corral.adapters.forge.registry import Forges
from corral.adapters.git import is_branch_name
from corral.adapters.mirror import CommitInfo, FileChange, Mirror, with_trailers
from corral.adapters.secrets import Passage, SecretScanner
from corral.adapters.workspace import Workspaces
from corral.errors import ForgeFailed, GitFailed, Unrecoverable
from corral.jobs.pr_creation.description import Description, find_template, key_of
from corral.jobs.pr_creation.guard import check_files, check_paths, check_secrets, check_size
from corral.jobs.pr_creation.payload import PrCreation, PrResult, PrState
from corral.jobs.pr_creation.records import PullRequestRecords, idempotency_key
from corral.projects import Project, ProjectStore
from corral.queue.job import Job

_MAX_COMMITS: Final = 250
_PUSH_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What is to be published.

    Attributes:
        base: Tip of the target branch.
        fork: Where the change leaves the target; what it is compared with.
        head: What the source branch must hold.
        conflicts: Paths that can't be merged into ``base``.
        files: What changes between ``fork`` and ``head``.
    """

    base: str
    fork: str
    head: str
    conflicts: tuple[str, ...]
    files: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand:
    """One job with everything that was looked up for it."""

    job: Job[PrCreation]
    project: Project
    forge: Forge
    mirror: Mirror
    commit: str
    key: str

    @property
    def asked(self) -> PrCreation:
        return self.job.data


class PrCreationHandler:
    """Handles ``pr-creation`` jobs.

    Args:
        projects: The registered projects.
        workspaces: Mirrors, with the credentials for them.
        forges: Where pull requests are opened.
        records: What was pushed.
        scanner: Looks for secrets before anything is published.
        task_url: Address of a task, with ``{task_id}`` in it; None: tasks are only named.

    Effects:
        Pushes the source branch; opens or edits one pull request; adds labels, reviewers and assignees.

    Safe to repeat:
        The head commit is the same for the same input, a branch is only replaced when Corral pushed what is there, the
        pull request is looked up by its branches first, and a forge refuses a second open one.
    """

    def __init__(
        self,
        *,
        projects: ProjectStore,
        workspaces: Workspaces,
        forges: Forges,
        records: PullRequestRecords,
        scanner: SecretScanner,
        task_url: str | None = None,
    ) -> None:
        self._projects = projects
        self._workspaces = workspaces
        self._forges = forges
        self._records = records
        self._scanner = scanner
        self._task_url = task_url

    async def __call__(self, job: Job[PrCreation]) -> PrResult:
        """Open the pull request, or find it.

        Raises:
            Unrecoverable: The change can't become a pull request; ``reason`` says why.
            ForgeFailed: The forge refused; ``reason`` is a :class:`~corral.adapters.forge.port.Refusal`.
            GitFailed: git refused.
            UnknownProject: The project isn't registered.
        """
        asked = job.data
        _check_names(asked)
        await job.progress({"percent": 0, "stage": "looking up the project"})
        project = await self._projects.get(asked.project_id)
        forge = self._forges.of(project)
        await self._check_repository(project, forge, asked)
        await job.progress({"percent": 10, "stage": "fetching"})
        commit = await self._workspaces.resolve(project, asked.commit_id)
        errand = _Errand(
            job=job,
            project=project,
            forge=forge,
            mirror=self._workspaces.mirror(project),
            commit=commit,
            key=idempotency_key(project.id, asked.source_branch, asked.target_branch, commit),
        )
        await job.progress({"percent": 20, "stage": "looking for an earlier pull request"})
        earlier = await self._earlier(errand)
        if earlier is not None and earlier.state is not PullRequestState.OPEN:
            return await self._ended(errand, earlier)
        change = await self._publish(errand, earlier)
        await job.progress({"percent": 70, "stage": "opening the pull request"})
        pull_request, created = await self._open(errand, change, earlier)
        await job.progress({"percent": 85, "stage": "labels and reviewers"})
        pull_request = await self._decorate(errand, pull_request)
        result = _result(pull_request, change, created=created)
        await self._records.remember(errand.key, result)
        await job.log(f"{'opened' if created else 'found'} #{result.number} {result.url}")
        await job.progress({"percent": 100, "stage": "done"})
        return result

    # --- before anything is changed

    async def _check_repository(self, project: Project, forge: Forge, asked: PrCreation) -> None:
        facts = await forge.describe(project.repository)
        if facts.archived:
            raise Unrecoverable(
                f"{project.repository} is archived; unarchive it to open pull requests", reason="repository_archived"
            )
        if facts.can_push is False:
            raise Unrecoverable(
                f"the token may not push to {project.repository}; give it write access to contents",
                reason="permission_denied",
            )
        if asked.source_branch in {facts.default_branch, project.default_branch}:
            raise Unrecoverable(
                f"{asked.source_branch!r} is the default branch; a pull request needs a source branch of its own",
                reason="source_is_default_branch",
            )

    async def _earlier(self, errand: _Errand) -> PullRequest | None:
        """The pull request to go on with: an open one between these branches, else the ended one of this very job."""
        asked = errand.asked
        found = await errand.forge.find(
            errand.project.repository, source_branch=asked.source_branch, target_branch=asked.target_branch
        )
        for pull_request in found:
            if pull_request.state is PullRequestState.OPEN:
                return pull_request
        return next((one for one in found if key_of(one.body) == errand.key), None)

    async def _ended(self, errand: _Errand, pull_request: PullRequest) -> PrResult:
        """What the job says when its pull request was merged or closed before it came again."""
        state = PrState.MERGED if pull_request.state is PullRequestState.MERGED else PrState.CLOSED
        kept = await self._records.recall(errand.key)
        if kept is not None:
            return kept.model_copy(update={"state": state, "created": False, "conflicts": ()})
        base = await self._target(errand)
        fork = await errand.mirror.merge_base(base, errand.commit) or base
        files = await errand.mirror.changes(fork, errand.commit)
        change = _Change(base=base, fork=fork, head=pull_request.head, conflicts=(), files=tuple(files))
        return _result(pull_request, change, created=False)

    async def _target(self, errand: _Errand) -> str:
        asked = errand.asked
        base = await errand.mirror.branch(asked.target_branch)
        if base is None:
            raise Unrecoverable(
                f"{errand.project.repository} has no branch {asked.target_branch!r} to merge into",
                reason=Refusal.TARGET_MISSING.value,
            )
        return base

    # --- the branch

    async def _publish(self, errand: _Errand, earlier: PullRequest | None) -> _Change:
        """Bring the source branch to where it belongs, whoever else pushes meanwhile."""
        for turn in range(1, _PUSH_ROUNDS + 1):
            await errand.mirror.update(await self._workspaces.remote(errand.project))
            await errand.job.progress({"percent": 30, "stage": "comparing with the target branch"})
            change = await self._prepare(errand)
            tip = await errand.mirror.branch(errand.asked.source_branch)
            settled = await self._settled(errand, change, tip, earlier)
            if settled is not None:
                return settled
            await errand.job.progress({"percent": 40, "stage": "checking the change"})
            await self._check(errand, change)
            await errand.job.progress({"percent": 55, "stage": "pushing"})
            await self._records.will_push(errand.project.id, errand.asked.source_branch, change.head)
            remote = await self._workspaces.remote(errand.project)
            try:
                await errand.mirror.push(remote, change.head, branch=errand.asked.source_branch, expected=tip)
            except GitFailed as error:
                if error.reason not in {"branch_moved", "locked"} or turn == _PUSH_ROUNDS:
                    raise
                await errand.job.log(f"{errand.asked.source_branch} moved meanwhile; looking again")
                continue
            await errand.job.log(f"pushed {change.head} to {errand.asked.source_branch}")
            return change
        raise AssertionError  # pragma: no cover  the last turn returns or raises

    async def _prepare(self, errand: _Errand) -> _Change:
        """Attribute the commits and bring them onto the target's tip when that is clean."""
        mirror, commit = errand.mirror, errand.commit
        base = await self._target(errand)
        if await mirror.is_ancestor(commit, base):
            raise _nothing(errand)
        fork = await mirror.merge_base(base, commit)
        if fork is None:
            raise Unrecoverable(
                f"{commit} shares no history with {errand.asked.target_branch!r}", reason="unrelated_histories"
            )
        if not await mirror.changes(fork, commit):
            raise _nothing(errand)
        merged = await mirror.merge(base, commit)
        head = commit
        if not await mirror.is_published(commit):
            commits = await self._attributed(errand, await mirror.commits(fork, commit, limit=_MAX_COMMITS))
            head = commits[-1].hash
            if fork != base and not merged.conflicts:
                head, fork = await self._moved(errand, commits, base, merged.tree), base
        if head == base or not (files := await mirror.changes(fork, head)):
            raise _nothing(errand)
        return _Change(base=base, fork=fork, head=head, conflicts=merged.conflicts, files=tuple(files))

    async def _attributed(self, errand: _Errand, commits: list[CommitInfo]) -> list[CommitInfo]:
        """The commits, the last one with trailers that say for which task and user it was made.

        Everything but the message stays, dates too, so that the same commit always becomes the same commit.
        """
        last = commits[-1]
        trailers = {"Corral-Task": errand.asked.task_id, "Corral-User": errand.asked.user_id}
        message = with_trailers(last.message, trailers)
        if message.strip() == last.message.strip():
            return commits
        made = await errand.mirror.commit_tree(
            last.tree,
            last.parents,
            message,
            author=last.author,
            committer=last.committer,
            author_date=last.author_date,
            committer_date=last.committer_date,
        )
        return [*commits[:-1], replace(last, hash=made, message=message)]

    async def _moved(self, errand: _Errand, commits: list[CommitInfo], base: str, merged_tree: str) -> str:
        """The change on the target's tip: replayed, or merged when its commits can't be replayed one by one."""
        rebased = await errand.mirror.rebase(commits, base)
        if rebased is not None:
            await errand.job.log(f"rebased onto {errand.asked.target_branch} at {base}")
            return rebased
        last = commits[-1]
        await errand.job.log(f"merged {errand.asked.target_branch} at {base} into the branch")
        return await errand.mirror.commit_tree(
            merged_tree,
            [last.hash, base],
            f"Merge branch '{errand.asked.target_branch}' into {errand.asked.source_branch}\n",
            author=last.committer,
            committer=last.committer,
            author_date=last.committer_date,
            committer_date=last.committer_date,
        )

    async def _settled(
        self, errand: _Errand, change: _Change, tip: str | None, earlier: PullRequest | None
    ) -> _Change | None:
        """What is published when nothing is to be pushed; None when something is.

        Raises:
            Unrecoverable: ``branch_has_other_commits``: pushing would drop somebody else's work.
        """
        if tip is None or await errand.mirror.is_ancestor(tip, change.head):
            return change if tip == change.head else None
        if await errand.mirror.is_ancestor(change.head, tip):
            return await self._as_it_is(errand, change, tip)  # somebody went on from our commit
        asked = errand.asked
        if await self._records.was_pushed(errand.project.id, asked.source_branch, tip):
            if await self._same_content(errand.mirror, tip, change.head):
                return replace(change, head=tip)  # signed at another time
            return None
        if earlier is not None and key_of(earlier.body) == errand.key:
            return await self._as_it_is(errand, change, tip)  # somebody went on from what this job pushed before
        theirs = await errand.mirror.commits(change.fork, tip, limit=_MAX_COMMITS)
        authors = ", ".join(sorted({commit.author for commit in theirs})[:5])
        raise Unrecoverable(
            f"the branch {asked.source_branch!r} holds commits that Corral did not push (tip {tip}, by {authors}) and "
            "they are never overwritten; use another source branch, or delete that one",
            reason="branch_has_other_commits",
        )

    async def _as_it_is(self, errand: _Errand, change: _Change, tip: str) -> _Change:
        fork = await errand.mirror.merge_base(change.base, tip) or change.base
        merged = await errand.mirror.merge(change.base, tip)
        files = await errand.mirror.changes(fork, tip)
        return _Change(base=change.base, fork=fork, head=tip, conflicts=merged.conflicts, files=tuple(files))

    async def _same_content(self, mirror: Mirror, one: str, other: str) -> bool:
        first, second = await mirror.commit(one), await mirror.commit(other)
        return (first.tree, first.parents, first.message) == (second.tree, second.parents, second.message)

    async def _check(self, errand: _Errand, change: _Change) -> None:
        check_size(errand.project, change.files)
        check_paths(errand.project, change.files)
        await check_files(errand.project, change.files, errand.mirror)
        asked = errand.asked
        texts = [
            Passage(path="pull request's title", lines=(asked.title,)),
            Passage(path="pull request's description", lines=tuple(asked.description.split("\n"))),
            Passage(path="test summary", lines=tuple((asked.test_summary or "").split("\n"))),
        ]
        await check_secrets(
            errand.project, errand.mirror, self._scanner, base=change.base, head=change.head, texts=texts
        )

    # --- the pull request

    async def _open(self, errand: _Errand, change: _Change, earlier: PullRequest | None) -> tuple[PullRequest, bool]:
        """The open pull request, and whether it was opened just now."""
        asked, repository = errand.asked, errand.project.repository
        body = Description(
            text=asked.description,
            task_id=asked.task_id,
            user_id=asked.user_id,
            key=errand.key,
            task_url=self._task_url.replace("{task_id}", asked.task_id) if self._task_url else None,
            test_summary=asked.test_summary,
            template=await find_template(errand.mirror, change.base) if asked.template else None,
        ).body(limit=errand.forge.limits.body)
        if earlier is None:
            request = NewPullRequest(
                title=asked.title,
                body=body,
                source_branch=asked.source_branch,
                target_branch=asked.target_branch,
                head=change.head,
                draft=asked.draft,
            )
            try:
                return await errand.forge.open(repository, request), True
            except ForgeFailed as error:
                if error.reason != Refusal.ALREADY_EXISTS:
                    raise
                earlier = await self._earlier(errand)
                if earlier is None or earlier.state is not PullRequestState.OPEN:
                    raise ForgeFailed(
                        f"{errand.forge.name} says that the pull request exists, but doesn't list it yet",
                        service=errand.forge.name,
                        operation="open",
                        retryable=True,
                        reason=Refusal.ALREADY_EXISTS.value,
                    ) from error
        known = key_of(earlier.body)
        if known is not None and known != errand.key:  # ours, opened for an earlier commit of this branch
            earlier = await errand.forge.edit(repository, earlier.number, title=asked.title, body=body)
        return earlier, False

    async def _decorate(self, errand: _Errand, pull_request: PullRequest) -> PullRequest:
        asked = errand.asked
        missing = Extras(
            labels=_missing(asked.labels, pull_request.labels),
            reviewers=_missing(asked.reviewers, pull_request.reviewers),
            assignees=_missing(asked.assignees, pull_request.assignees),
            auto_merge=asked.auto_merge and not pull_request.auto_merge,
        )
        if not missing:
            return pull_request
        try:
            return await errand.forge.decorate(errand.project.repository, pull_request, missing)
        except ForgeFailed as error:
            raise ForgeFailed(
                f"{error}. The pull request itself is open: {pull_request.url}",
                service=error.service,
                operation=error.operation,
                retryable=error.retryable,
                retry_after=error.retry_after,
                reason=error.reason,
            ) from error


def _check_names(asked: PrCreation) -> None:
    for role, name in (("source", asked.source_branch), ("target", asked.target_branch)):
        if not is_branch_name(name):
            raise Unrecoverable(
                f"git does not take the {role} branch {name!r} as a branch's name", reason="invalid_branch"
            )
    if asked.source_branch == asked.target_branch:
        raise Unrecoverable(f"source and target are the same branch, {asked.source_branch!r}", reason="same_branch")


def _nothing(errand: _Errand) -> Unrecoverable:
    return Unrecoverable(
        f"nothing to merge: {errand.asked.target_branch!r} has everything that {errand.commit} brings",
        reason=Refusal.NOTHING_TO_MERGE.value,
    )


def _missing(wanted: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    have = {name.casefold() for name in there}
    return tuple(name for name in dict.fromkeys(wanted) if name.casefold() not in have)


def _result(pull_request: PullRequest, change: _Change, *, created: bool) -> PrResult:
    state = PrState.DRAFT if pull_request.draft else PrState.OPEN
    if pull_request.state is not PullRequestState.OPEN:
        state = PrState(pull_request.state.value)
    elif change.conflicts:
        state = PrState.CONFLICT
    return PrResult(
        number=pull_request.number,
        url=pull_request.url,
        head=change.head,
        base=change.base,
        source_branch=pull_request.source_branch,
        target_branch=pull_request.target_branch,
        state=state,
        created=created,
        files_changed=len(change.files),
        lines_added=sum(one.lines_added for one in change.files),
        lines_removed=sum(one.lines_removed for one in change.files),
        conflicts=change.conflicts if state is PrState.CONFLICT else (),
    )
