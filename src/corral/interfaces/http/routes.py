"""How an endpoint is declared: its scope, its problems and its place in the OpenAPI document, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, params
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python
from starlette.responses import JSONResponse, Response

from corral.interfaces.http.guard import SCOPE_KEY
from corral.interfaces.http.problems import responses

SECURITY_SCHEME: Final = "corral"


class Json(JSONResponse):
    """An answer in JSON; Pydantic models in it are written camelCase."""

    def render(self, content: Any) -> bytes:
        """Serialize."""
        return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """Pydantic models and what they hold as JSON."""
    try:
        return to_json(content, by_alias=True, inf_nan_mode="null", serialize_unknown=True)
    except (UnicodeEncodeError, PydanticSerializationError):
        # Text that was no UTF-8 in Redis has lone surrogates in Python; JSON can at least escape them.
        plain = to_jsonable_python(content, by_alias=True, inf_nan_mode="null", serialize_unknown=True)
        return json.dumps(plain).encode()


@dataclass(frozen=True, slots=True)
class Section:
    """Endpoints with a common prefix and tag; all lie in one flat router, as each nested one costs every request."""

    router: APIRouter
    prefix: str
    tag: str


def endpoint(
    section: Section,
    method: str,
    path: str,
    handler: Callable[..., Any],
    *,
    scope: str,
    answers: type | None,
    status: int = 200,
    problems: tuple[int, ...] = (),
    more: Mapping[int | str, dict[str, Any]] | None = None,
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """Add one endpoint.

    Args:
        section: Where.
        method: HTTP method.
        path: Under the section's prefix.
        handler: Its docstring describes it; its name is the operation's id and the rate limit's endpoint.
        scope: What the caller needs; ``none`` lets anybody in, without a limit.
        answers: Model of the answer; None: no body, or one that ``more`` describes.
        status: Of success.
        problems: Statuses beyond those that every endpoint can answer.
        more: Further OpenAPI ``responses``.
        dependencies: Run before the handler.
    """
    common = () if scope == "none" else (401, 403, 422, 429, 503)
    takes_body = method in {"POST", "PUT"}
    statuses = sorted({*common, *problems, *((400, 413) if takes_body else ())})
    extra: dict[str, Any] = {SCOPE_KEY: scope}
    if scope != "none" and not dependencies:  # a security dependency says it itself
        extra["security"] = [{SECURITY_SCHEME: []}]
    section.router.add_api_route(
        section.prefix + path,
        handler,
        methods=[method],
        name=handler.__name__,
        operation_id=handler.__name__,
        summary=(handler.__doc__ or "").splitlines()[0].rstrip("."),
        response_model=answers,
        response_class=Json if answers is not None else Response,
        status_code=status,
        responses={**responses(*statuses), **(more or {})},
        openapi_extra=extra,
        tags=[section.tag],
        dependencies=dependencies,
    )
