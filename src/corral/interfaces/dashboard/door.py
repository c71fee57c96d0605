"""The door of every page: the login, the other sites, the error pages."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, quote

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse

from corral.errors import NotAuthenticated, NotPermitted
from corral.interfaces.dashboard.rendering import SECURITY_HEADERS, page
from corral.interfaces.dashboard.sessions import COOKIE, Session, Sessions
from corral.interfaces.http.admission import refuse_other_sites, refuse_strangers
from corral.interfaces.http.context import Api, Call
from corral.interfaces.http.problems import problem_of
from corral.interfaces.identity import CredentialKind, Scope, local_principal
from corral.wire.faults import translate_error

_LOGGER: Final = logging.getLogger("corral.dashboard")
_FORM_BYTES: Final = 65_536
_OPEN: Final = "dashboard-open"
"""Name of the routes that need no login."""
#: The form token of callers who need no login; a page of another site can't read it.
_LOCAL_CSRF: Final = secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to a page, by somebody who may see it."""

    api: Api
    request: Request
    base: str
    session: Session

    @property
    def call(self) -> Call:
        """For what the API does too."""
        return Call(self.api, self.session.principal)

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Render a page with what all pages show."""
        return page(template, status=status, **self.common, **values)

    @property
    def common(self) -> dict[str, Any]:
        """What every template needs."""
        principal = self.session.principal
        return {
            "base": self.base,
            "csrf": self.session.csrf,
            "user": principal.user_id,
            "needs_login": principal.kind is not CredentialKind.LOCAL,
            "may_submit": principal.allows(Scope.SUBMIT),
            "may_manage": principal.allows(Scope.MANAGE),
            "job_types": sorted(self.api.corral.job_types),
        }

    def go(self, path: str) -> Response:
        """See another page next."""
        return RedirectResponse(self.base + path, status_code=303, headers=SECURITY_HEADERS)


async def _visit(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


VisitDep = Annotated[Visit, Depends(_visit)]


async def sessions(api: Api) -> Sessions:
    """The logins."""
    guard = await api.guard()
    corral = api.corral
    return Sessions(corral.redis, guard.authenticator, api.settings.session_lifetime, prefix=corral.namespace)


async def find_session(api: Api, request: Request) -> Session:
    """Who is looking.

    Raises:
        NotAuthenticated: A login is needed.
        NotPermitted: None is needed here, but the request comes from elsewhere.
    """
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        found = await (await sessions(api)).find(cookie)
        if found is not None:
            refuse_other_sites(request)
            return found
    guard = await api.guard()
    if await guard.authenticator.is_open():
        refuse_strangers(request)
        return Session(local_principal(), _LOCAL_CSRF)
    raise NotAuthenticated("log in first")


async def form(request: Request) -> dict[str, str]:
    """A posted form; small, and no field twice."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_BYTES:
            raise NotPermitted(f"expected a form of at most {_FORM_BYTES} bytes")
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace"), max_num_fields=50).items()}


async def checked_form(visit: Visit) -> dict[str, str]:
    """A posted form that one of our own pages sent.

    Raises:
        NotPermitted: It lacks the session's form token.
    """
    fields = await form(visit.request)
    if not secrets.compare_digest(fields.get("csrf", ""), visit.session.csrf):
        raise NotPermitted("this form is out of date: go back, load the page again and repeat")
    return fields


def dashboard_route(api: Api, base: str) -> type[APIRoute]:
    """A route class whose pages need a login, except those named `open_name`."""

    class DashboardRoute(APIRoute):
        """See `dashboard_route`."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Wrap FastAPI's own handler."""
            handle = super().get_route_handler()
            needs_login = not self.name.startswith(_OPEN)

            async def guarded(request: Request) -> Response:
                request.state.api = api
                root = request.scope.get("root_path", "") + base
                request.state.base = root
                try:
                    if needs_login:
                        session = await find_session(api, request)
                        request.state.visit = Visit(api, request, root, session)
                    return await handle(request)
                except NotAuthenticated:
                    if request.method == "GET" and "live" not in request.url.path:
                        here = quote(request.url.path.removeprefix(root) + _query(request), safe="")
                        return RedirectResponse(f"{root}/login?next={here}", 303, headers=SECURITY_HEADERS)
                    return _error_page(request, 401, "Log in first", "Your login has ended.")
                except Exception as error:  # noqa: BLE001 - the edge: every error becomes a page
                    return _explain(request, error)

            return guarded

    return DashboardRoute


def open_name(name: str) -> str:
    """The name of a route that needs no login."""
    return f"{_OPEN}-{name}"


def _query(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


def _explain(request: Request, error: Exception) -> Response:
    error = translate_error(error) or error
    problem = problem_of(error)
    if problem is None:
        _LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error_page(request, 500, "Corral failed", f"{type(error).__name__}; the server's log has the rest")
    return _error_page(request, problem.status_code, "That did not work", str(error))


def _error_page(request: Request, status: int, title: str, detail: str) -> Response:
    visit: Visit | None = getattr(request.state, "visit", None)
    if visit is not None:
        return visit.page("error.html", status=status, title=title, detail=detail)
    return page("error.html", status=status, title=title, detail=detail, **anonymous(request))


def anonymous(request: Request) -> dict[str, Any]:
    """What every template needs, for nobody."""
    return {
        "base": request.state.base,
        "csrf": "",
        "user": None,
        "needs_login": True,
        "may_submit": False,
        "may_manage": False,
        "job_types": [],
    }
