"""Errors on the wire: RFC 9457 problem documents, and the one table that decides what each error answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from corral import errors
from corral.errors import CorralError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE_PREFIX: Final = "urn:corral:problem:"


class FieldProblem(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="JSON Pointer into the body, or `query:name`, `path:name`, `header:name`.")
    message: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:corral:problem:payload-invalid",
                    "title": "The payload doesn't fit the job type",
                    "status": 422,
                    "detail": "code-generation: prompt: Field required",
                    "errors": [{"field": "/data/prompt", "message": "Field required"}],
                }
            ]
        }
    )

    type: str = Field(description="Stable: programs decide by this.")
    title: str = Field(description="The kind of problem, for people.")
    status: int
    detail: str = Field(description="This problem: what was expected, what came, how to mend it.")
    errors: list[FieldProblem] | None = Field(default=None, description="The fields that were wrong.")
    retry_after_s: int | None = Field(default=None, description="When the same request can succeed.")


class HttpProblem(CorralError):
    """A problem that only HTTP knows (a body too large, a key used twice)."""

    def __init__(self, status: int, slug: str, title: str, detail: str, fields: Sequence[FieldProblem] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.fields = list(fields)


_KINDS: Final[Sequence[tuple[type[Exception], int, str, str]]] = (
    (errors.PayloadInvalid, 422, "payload-invalid", "The payload doesn't fit the job type"),
    (errors.UnknownJobType, 404, "unknown-job-type", "No such job type"),
    (errors.UnknownProject, 404, "unknown-project", "No such project"),
    (errors.JobNotFound, 404, "job-not-found", "No such job"),
    (errors.ArtifactNotFound, 404, "artifact-not-found", "No such file"),
    (errors.JobStateConflict, 409, "job-state-conflict", "The job's state doesn't allow this"),
    (errors.LeaseLost, 409, "job-state-conflict", "The job's state doesn't allow this"),
    (errors.NotAuthenticated, 401, "not-authenticated", "A valid token is needed"),
    (errors.NotPermitted, 403, "not-permitted", "The token doesn't allow this"),
    (errors.TooManyRequests, 429, "too-many-requests", "The request limit is used up"),
    (errors.TooManyJobs, 429, "too-many-jobs", "Too many jobs of this user are waiting"),
    (errors.StoreError, 503, "store-unavailable", "Redis doesn't answer as it should"),
    (errors.ExtraMissing, 501, "not-installed", "This server lacks an optional part"),
    (errors.AdapterError, 502, "service-failed", "A service behind Corral failed"),
    (errors.Unrecoverable, 422, "not-possible", "This can't be done"),
)
"""First match wins. A CorralError of no kind named here is a 500: a fault of ours."""

#: What a part outside refuses for a reason that the caller can mend, or that isn't the caller's; by
#: `AdapterError.reason`.
_REFUSALS: Final[Mapping[str, tuple[int, str, str]]] = {
    "pull_request_not_found": (404, "pull-request-not-found", "No such pull request"),
    "repository_not_found": (404, "repository-not-found", "No such repository"),
    "not_indexed": (404, "not-indexed", "This project has no index yet"),
    "unknown_file": (404, "unknown-file", "The index holds no such file"),
    "on_another_forge": (409, "on-another-forge", "Another forge keeps this project's pull requests"),
    "not_open": (409, "pull-request-not-open", "The pull request's state doesn't allow this"),
    "merge_conflict": (409, "merge-conflict", "The branches conflict"),
    "branch_protected": (409, "branch-protected", "The target branch may not be moved"),
    "branch_moved": (409, "branch-moved", "The branches moved meanwhile"),
    "key_set_unreachable": (503, "identity-unavailable", "Credentials can't be checked now"),
    "target_missing": (409, "target-missing", "There is no such target branch"),
}
_SLUGS: Final[Mapping[int, str]] = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
}


def problem_response(
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    fields: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as an answer."""
    retry_after = (headers or {}).get("Retry-After")
    problem = Problem(
        type=_TYPE_PREFIX + slug,
        title=title,
        status=status,
        detail=detail,
        errors=list(fields) or None,
        retry_after_s=int(retry_after) if retry_after else None,
    )
    body = to_json(problem, exclude_none=True)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def problem_of(error: Exception) -> Response | None:
    """The answer to an error that was foreseen; None for one that was not."""
    if isinstance(error, HttpProblem):
        return problem_response(error.status, error.slug, error.title, str(error), fields=error.fields)
    if isinstance(error, RequestValidationError):
        fields = list(_request_fields(error))
        detail = "; ".join(f"{field.field or 'the body'}: {field.message}" for field in fields[:3])
        return problem_response(
            422, "request-invalid", "The request is not of the expected form", detail, fields=fields
        )
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        slug = _SLUGS.get(error.status_code, phrase.lower().replace(" ", "-"))
        return problem_response(error.status_code, slug, phrase, str(error.detail), headers=error.headers)
    if isinstance(error, errors.AdapterError) and error.reason in _REFUSALS:
        status, slug, title = _REFUSALS[error.reason]
        return problem_response(status, slug, title, str(error), headers=_headers_of(error, status))
    for kind, status, slug, title in _KINDS:
        if isinstance(error, kind):
            fields = list(_payload_fields(error)) if isinstance(error, errors.PayloadInvalid) else []
            return problem_response(status, slug, title, str(error), fields=fields, headers=_headers_of(error, status))
    return None


def _headers_of(error: Exception, status: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="corral"'
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after.total_seconds())))
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return headers


def _pointer(parts: Sequence[Any]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


_NO_OBJECT: Final = frozenset({"dict_type", "model_attributes_type", "model_type"})


def _request_fields(error: RequestValidationError) -> Iterator[FieldProblem]:
    for one in error.errors():
        place, *rest = one["loc"]
        if place == "body":
            is_syntax = one["type"] == "json_invalid"
            message = f"not JSON: {one['ctx']['error']}" if is_syntax else one["msg"]
            if not rest and one["type"] in _NO_OBJECT:
                message = "expected a JSON object, with Content-Type: application/json"
            yield FieldProblem(field="" if is_syntax else _pointer(rest), message=message)
        else:
            yield FieldProblem(field=f"{place}:{'.'.join(map(str, rest))}", message=one["msg"])


def _payload_fields(error: Exception) -> Iterator[FieldProblem]:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        for one in cause.errors(include_url=False, include_context=False, include_input=False):
            yield FieldProblem(field="/data" + _pointer(one["loc"]), message=one["msg"])


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for an endpoint that can answer these problems."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
