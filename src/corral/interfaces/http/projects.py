"""Projects and code search over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query
from pydantic import ValidationError
from starlette.responses import Response

from corral.errors import (
    ConfigurationError,
    ExtraMissing,
    JobStateConflict,
    NotPermitted,
    PayloadInvalid,
    UnknownProject,
)
from corral.interfaces.http import models
from corral.interfaces.http.context import Call, CallDep, SearchPort
from corral.interfaces.http.routes import Json, Section, endpoint
from corral.projects import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from corral.projects import ProjectStore

ProjectId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    endpoint(section, "GET", "/projects", list_projects, scope="read", answers=models.Projects)
    endpoint(section, "POST", "/projects", add_project, scope="manage", answers=models.ProjectView, status=201,
             problems=(409,))  # fmt: skip
    endpoint(section, "GET", "/projects/{project_id}", get_project, scope="read", answers=models.ProjectView,
             problems=(404,))  # fmt: skip
    endpoint(section, "DELETE", "/projects/{project_id}", remove_project, scope="manage", answers=None, status=204,
             problems=(404, 502))  # fmt: skip
    endpoint(section, "GET", "/projects/{project_id}/search", search_project, scope="read", answers=models.SearchHits,
             problems=(404, 501, 502))  # fmt: skip
    endpoint(section, "GET", "/projects/{project_id}/neighbourhood", show_neighbourhood, scope="read",
             answers=models.Neighbourhood, problems=(404, 501, 502))  # fmt: skip


def _store(call: Call) -> ProjectStore:
    return call.corral.parts.projects


def _search(call: Call) -> SearchPort:
    try:
        return call.api.search or call.corral.parts.code_search
    except ModuleNotFoundError as error:
        raise ExtraMissing(f"code search needs {error.name}: pip install 'corral[index]'") from None


def usable_project(call: Call, project_id: str) -> str:
    """The id, if the caller may use that project.

    Raises:
        UnknownProject: They may not: it looks as if it did not exist.
    """
    if not call.principal.may_use_project(project_id):
        raise UnknownProject(f"no project {project_id!r} is registered")
    return project_id


async def list_projects(call: CallDep) -> Response:
    """List the projects that the caller may use."""
    found = [project for project in await _store(call).list() if call.principal.may_use_project(project.id)]
    return Json(models.Projects(projects=[_view(project) for project in found]))


async def add_project(call: CallDep, body: models.AddProject) -> Response:
    """Register a repository."""
    given: Mapping[str, object] = body.model_dump(exclude_unset=True)
    if not call.principal.may_use_project(body.id):
        raise NotPermitted(f"expected a project that this token may use, got {body.id!r}")
    for submodule in body.submodules:
        try:
            await _store(call).get(usable_project(call, submodule))
        except UnknownProject:
            raise PayloadInvalid(f"submodules: no project {submodule!r} is registered") from None
    try:
        project = Project.model_validate(given)
    except ValidationError as error:
        raise PayloadInvalid(f"this project can't be registered: {error.errors()[0]['msg']}") from error
    try:
        await _store(call).add(project)
    except ConfigurationError as error:
        raise JobStateConflict(str(error)) from error
    return Json(_view(project), status_code=201, headers={"Location": f"/v1/projects/{project.id}"})


async def get_project(call: CallDep, project_id: ProjectId) -> Response:
    """Get one project."""
    return Json(_view(await _store(call).get(usable_project(call, project_id))))


async def remove_project(call: CallDep, project_id: ProjectId) -> Response:
    """Forget a project and its indexes; its repository stays untouched."""
    await call.corral.parts.remove_project(usable_project(call, project_id))
    return Response(status_code=204)


async def search_project(  # noqa: PLR0917 - FastAPI gives them by name
    call: CallDep,
    project_id: ProjectId,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="Words, or names from the code.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    branch: Annotated[str, Query(max_length=200, description="Empty: the default branch.")] = "",
    language: Annotated[list[str], Query(description="Only these; repeat for several.")] = [],  # noqa: B006 - FastAPI copies it
    path: Annotated[list[str], Query(description="Only files that fit such a shell-style pattern.")] = [],  # noqa: B006 - FastAPI copies it
    kind: Annotated[list[str], Query(description="Only `function`, `class`, …")] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Search a project's code, by meaning and by name; the project must have been indexed."""
    await _store(call).get(usable_project(call, project_id))
    hits = await _search(call).search(
        project_id, q, limit=limit, branch=branch, languages=language, paths=path, kinds=kind
    )
    return Json(models.SearchHits(hits=[models.SearchHit.model_validate(hit) for hit in hits]))


async def show_neighbourhood(
    call: CallDep,
    project_id: ProjectId,
    path: Annotated[str, Query(min_length=1, max_length=4000, description="A file, from the repository's root.")],
    max_tokens: Annotated[
        int, Query(alias="maxTokens", ge=100, le=50_000, description="Of all of it together.")
    ] = 4000,
    branch: Annotated[str, Query(max_length=200, description="Empty: the default branch.")] = "",
) -> Response:
    """Get what is around a file: its definitions, imports, importers and tests, and code that uses it."""
    await _store(call).get(usable_project(call, project_id))
    around = await _search(call).neighbourhood(project_id, path, max_tokens=max_tokens, branch=branch)
    return Json(models.Neighbourhood.model_validate(around))


def _view(project: Project) -> models.ProjectView:
    return models.ProjectView.model_validate(project)
