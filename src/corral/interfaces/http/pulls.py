"""Pull requests of projects on the local forge, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Path, Query
from starlette.responses import Response

from corral.adapters.forge.port import PullRequestState
from corral.interfaces.http import models
from corral.interfaces.http.context import Call, CallDep
from corral.interfaces.http.projects import ProjectId, usable_project
from corral.interfaces.http.routes import Json, Section, endpoint
from corral.interfaces.pull_requests import PullRequests

if TYPE_CHECKING:
    from corral.adapters.forge.local import LocalPullRequest

_PULLS: Final = "/projects/{project_id}/pulls"
_PULL: Final = f"{_PULLS}/{{number}}"
_LARGEST: Final = 2**31 - 1

Number = Annotated[int, Path(ge=1, le=_LARGEST)]


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    summary = models.PullRequestSummary
    refused = (404, 409, 502)
    endpoint(section, "GET", _PULLS, list_pull_requests, scope="read", answers=models.PullRequestPage, problems=refused)
    endpoint(section, "GET", _PULL, get_pull_request, scope="read", answers=models.PullRequestView, problems=refused)
    endpoint(section, "POST", f"{_PULL}/merge", merge_pull_request, scope="manage", answers=summary, problems=refused)
    endpoint(section, "POST", f"{_PULL}/close", close_pull_request, scope="manage", answers=summary, problems=refused)


async def _pulls(call: Call, project_id: str) -> PullRequests:
    return await PullRequests.of(call.corral, usable_project(call, project_id))


async def list_pull_requests(
    call: CallDep,
    project_id: ProjectId,
    state: Annotated[PullRequestState | None, Query(description="Only those.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,10}$", description="From `nextCursor`.")] = None,
) -> Response:
    """List a project's pull requests on the local forge, newest first."""
    found = await (await _pulls(call, project_id)).list(state=state)
    if cursor is not None:
        found = [one for one in found if one.number < int(cursor)]
    shown = found[:limit]
    return Json(
        models.PullRequestPage(
            pull_requests=[_summary(one) for one in shown],
            next_cursor=str(shown[-1].number) if len(found) > len(shown) else None,
        )
    )


async def get_pull_request(call: CallDep, project_id: ProjectId, number: Number) -> Response:
    """Get one pull request with its diff, and with its conflicts of the moment."""
    review = await (await _pulls(call, project_id)).review(number)
    return Json(
        models.PullRequestView(
            **_summary(review.pull_request).model_dump(),
            body=review.pull_request.body,
            test_summary=review.test_summary,
            conflicts=list(review.pull_request.conflicts),
            files=[models.ChangedFile.model_validate(one) for one in review.files],
            diff=review.diff,
        )
    )


async def merge_pull_request(call: CallDep, project_id: ProjectId, number: Number) -> Response:
    """Merge a pull request into its target branch, with a merge commit; a conflict changes nothing."""
    return Json(_summary(await (await _pulls(call, project_id)).merge(number)))


async def close_pull_request(call: CallDep, project_id: ProjectId, number: Number) -> Response:
    """Close a pull request without merging it; its branch stays."""
    return Json(_summary(await (await _pulls(call, project_id)).close(number)))


def _summary(pull_request: LocalPullRequest) -> models.PullRequestSummary:
    return models.PullRequestSummary.model_validate(pull_request)
