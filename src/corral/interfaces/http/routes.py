"""How an endpoint is declared: its scope, its problems and its place in the OpenAPI document, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python
from starlette.responses import JSONResponse, Response

from corral.interfaces.http.guard import SCOPE_KEY
from corral.interfaces.http.problems import responses


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


def endpoint(
    router: APIRouter,
    method: str,
    path: str,
    handler: Callable[..., Any],
    *,
    scope: str,
    answers: type | None,
    status: int = 200,
    problems: tuple[int, ...] = (),
    more: Mapping[int | str, dict[str, Any]] | None = None,
) -> None:
    """Add one endpoint.

    Args:
        router: Where.
        method: HTTP method.
        path: Under the router's prefix.
        handler: Its docstring describes it; its name is the operation's id and the rate limit's endpoint.
        scope: What the caller needs; ``none`` lets anybody in, without a limit.
        answers: Model of the answer; None: no body, or one that ``more`` describes.
        status: Of success.
        problems: Statuses beyond those that every endpoint can answer.
        more: Further OpenAPI ``responses``.
    """
    common = () if scope == "none" else (401, 403, 422, 429, 503)
    takes_body = method in {"POST", "PUT"}
    statuses = sorted({*common, *problems, *((400, 413) if takes_body else ())})
    router.add_api_route(
        path,
        handler,
        methods=[method],
        name=handler.__name__,
        operation_id=handler.__name__,
        summary=(handler.__doc__ or "").splitlines()[0].rstrip("."),
        response_model=answers,
        response_class=Json if answers is not None else Response,
        status_code=status,
        responses={**responses(*statuses), **(more or {})},
        openapi_extra={SCOPE_KEY: scope},
    )
