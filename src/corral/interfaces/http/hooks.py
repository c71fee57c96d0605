"""What a forge tells by itself: a push on GitHub brings the project's index up to date.

Nobody logs in here; a signature over the whole body says who speaks. What it can set off is little: an indexing job of
a project that is registered already, for a branch whose tip the worker asks the forge for. So a message that is sent
again does no harm, and nothing of it is believed but that there was a push.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, Final

from fastapi import Header, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from corral.errors import NotAuthenticated, PayloadInvalid
from corral.interfaces.http import models
from corral.interfaces.http.context import Api
from corral.interfaces.http.problems import HttpProblem
from corral.interfaces.http.routes import Json, Section, endpoint
from corral.jobs.codebase_indexing.nested import same_repository
from corral.jobs.job_type import JobType
from corral.projects import Project
from corral.queue.definition import explain
from corral.queue.options import Deduplication

_USER: Final = "github"
"""Whose jobs these are."""
_BRANCHES: Final = "refs/heads/"


class _Repository(BaseModel):
    clone_url: str


class _Push(BaseModel):
    """What is read of GitHub's ``push``."""

    ref: str
    deleted: bool = False
    repository: _Repository


def add_routes(section: Section) -> None:
    """Add the endpoint."""
    endpoint(section, "POST", "/hooks/github", github_hook, scope="none", answers=models.IndexingJobs, status=202,
             problems=(401, 404, 422, 429, 503))  # fmt: skip


async def github_hook(
    request: Request,
    signature: Annotated[str, Header(alias="X-Hub-Signature-256", description="GitHub's, of the whole body.")] = "",
    event: Annotated[str, Header(alias="X-GitHub-Event", description="Only `push` leads to anything.")] = "",
) -> Response:
    """Index what was pushed to GitHub: the address for a webhook of content type `application/json`.

    The secret of the webhook is `CORRAL_GITHUB_WEBHOOK_SECRET`; without that setting there is no such endpoint. For
    each registered project with the pushed repository, a `codebase-indexing` job of the branch is added, unless one
    waits already; one that runs is followed by one more. When a branch was deleted, the default branch's job removes
    its index.
    """
    api: Api = request.state.api
    secret = api.settings.github_webhook_secret
    if secret is None:
        raise HttpProblem(
            404, "not-found", "No webhook is expected", "set CORRAL_GITHUB_WEBHOOK_SECRET, and the same at GitHub"
        )
    body = await request.body()
    if not hmac.compare_digest(_signed(secret.get_secret_value(), body), signature.encode("utf-8", "replace")):
        raise NotAuthenticated("expected X-Hub-Signature-256 by the secret that CORRAL_GITHUB_WEBHOOK_SECRET holds")
    if event != "push":
        return Json(models.IndexingJobs(jobs=[]), status_code=202)
    try:
        push = _Push.model_validate_json(body)
    except ValidationError as error:
        raise PayloadInvalid(f"expected GitHub's push event as application/json: {explain(error)}") from None
    return Json(models.IndexingJobs(jobs=await _index(api, push)), status_code=202)


def _signed(secret: str, body: bytes) -> bytes:
    return b"sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


async def _index(api: Api, push: _Push) -> list[models.IndexingJob]:
    if not push.ref.startswith(_BRANCHES):
        return []  # a tag
    await api.guard()  # connects
    corral = api.corral
    added = []
    for project in await corral.parts.projects.list():
        if not same_repository(project.repository, push.repository.clone_url):
            continue
        branch = _branch_to_index(project, push)
        data: dict[str, Any] = {"projectId": project.id, "userId": _USER, "branch": branch}
        # The job asks for the branch's tip when it starts: one that waits will see this push, one that runs may not.
        same = Deduplication(f"index:{project.id}:{branch}", keep_last_if_active=True)
        job = await corral.add_job(JobType.CODEBASE_INDEXING, data, deduplication=same)
        added.append(models.IndexingJob(project_id=project.id, branch=branch, job_id=job.id))
    return added


def _branch_to_index(project: Project, push: _Push) -> str:
    """The one that was pushed; the default branch when it was deleted, as its job removes what is gone."""
    return project.default_branch if push.deleted else push.ref.removeprefix(_BRANCHES)
