"""Projects, and the pull requests of those on the local forge: looked at, merged and closed."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path, Query
from starlette.responses import Response

from corral.adapters.forge.port import PullRequestState
from corral.interfaces.dashboard.actions import QUESTIONS, ask
from corral.interfaces.dashboard.door import Visit, VisitDep, checked_form
from corral.interfaces.http.projects import ProjectId, usable_project
from corral.interfaces.http.pulls import Number
from corral.interfaces.identity import Scope
from corral.interfaces.pull_requests import PullRequests, is_local

_PAGE: Final = 50
_TABS: Final = ("", *PullRequestState)
PullRequestAction = Annotated[str, Path(pattern="^(merge|close)$")]


async def projects(visit: VisitDep) -> Response:
    """The projects that the visitor may use."""
    principal = visit.session.principal
    found = [one for one in await visit.api.corral.parts.projects.list() if principal.may_use_project(one.id)]
    return visit.page("projects.html", title="Projects", projects=found, is_local=is_local)


async def pull_requests(
    visit: VisitDep,
    project_id: ProjectId,
    state: Annotated[str, Query(pattern="^(|open|merged|closed)$")] = "",
    before: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> Response:
    """A project's pull requests, newest first."""
    found = await (await _pulls(visit, project_id)).list(state=PullRequestState(state) if state else None)
    shown = [one for one in found if not before or one.number < before]
    following = shown[_PAGE - 1].number if len(shown) > _PAGE else None
    return visit.page(
        "pulls.html", title=f"Pull requests of {project_id}", section="Projects", project_id=project_id,
        pulls=shown[:_PAGE], state=state, tabs=_TABS, following=following,
    )  # fmt: skip


async def pull_request(visit: VisitDep, project_id: ProjectId, number: Number) -> Response:
    """One pull request: what it says, what it changes, and whether it can be merged."""
    review = await (await _pulls(visit, project_id)).review(number)
    title = f"{project_id} #{number}"
    return visit.page(
        "pull.html", title=title, section="Projects", project_id=project_id, review=review, questions=QUESTIONS
    )


async def act_on_pull_request(
    visit: VisitDep, project_id: ProjectId, number: Number, action: PullRequestAction
) -> Response:
    """Merge or close one."""
    fields = await checked_form(visit)
    visit.session.principal.require(Scope.MANAGE)
    pulls = await _pulls(visit, project_id)
    if fields.get("confirmed") != "yes":
        return ask(visit, action, f"{project_id} #{number}")
    await (pulls.merge(number) if action == "merge" else pulls.close(number))
    return visit.go(f"/projects/{project_id}/pulls/{number}")


async def _pulls(visit: Visit, project_id: str) -> PullRequests:
    return await PullRequests.of(visit.api.corral, usable_project(visit.call, project_id))
