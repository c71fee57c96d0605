"""What the pages' buttons do; each asks first, by a dialog or, without script, by a page."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path, Request
from starlette.responses import RedirectResponse, Response

from corral.errors import JobNotFound, NotAuthenticated, NotPermitted
from corral.interfaces.dashboard.door import Visit, VisitDep, anonymous, checked_form, form, sessions
from corral.interfaces.dashboard.rendering import SECURITY_HEADERS, page
from corral.interfaces.dashboard.sessions import COOKIE
from corral.interfaces.http.admission import refuse_other_sites
from corral.interfaces.http.context import Api
from corral.interfaces.http.models import JobId, JobTypeName
from corral.interfaces.identity import Scope
from corral.ratelimit import RateLimit, RateLimiter

_LOGINS: Final = RateLimit(limit=20)
_DAY_MS: Final = 86_400_000

JobAction = Annotated[str, Path(pattern="^(cancel|retry|promote|remove)$")]
QueueAction = Annotated[str, Path(pattern="^(pause|resume|clean|retry|drain)$")]

QUESTIONS: Final = {
    "cancel": "Cancel this job? One that waits is removed; a running one is stopped and ends as failed.",
    "retry": "Run again?",
    "promote": "Run this delayed job now?",
    "remove": "Remove this job and its logs for good?",
    "pause": "Start no more jobs of this queue?",
    "resume": "Start jobs of this queue again?",
    "clean": "Remove jobs that ended more than 24 hours ago?",
    "drain": "Remove all waiting jobs of this queue for good?",
    "merge": "Merge this pull request into its target branch?",
    "close": "Close this pull request without merging it? Its branch stays.",
}


async def act_on_job(visit: VisitDep, job_type: JobTypeName, job_id: JobId, action: JobAction) -> Response:
    """Cancel, retry, promote or remove one job."""
    fields = await checked_form(visit)
    visit.session.principal.require(Scope.SUBMIT)
    await visit.call.job(job_type, job_id)
    if fields.get("confirmed") != "yes":
        return ask(visit, action, f"{job_type} {job_id}")
    corral = visit.api.corral
    if action == "cancel":
        await corral.cancel_job(job_type, job_id, reason="by hand", by=visit.session.principal.user_id)
    elif action == "retry":
        await corral.retry_job(job_type, job_id)
    elif action == "promote":
        await corral.promote_job(job_type, job_id)
    else:
        await corral.remove_job(job_type, job_id)
    try:
        await visit.call.job(job_type, job_id)
    except JobNotFound:
        return visit.go(f"/queues/{job_type}")
    return visit.go(f"/jobs/{job_type}/{job_id}")


async def act_on_queue(visit: VisitDep, job_type: JobTypeName, action: QueueAction) -> Response:
    """Pause, resume, clean or drain a queue, or retry its failed jobs."""
    fields = await checked_form(visit)
    visit.session.principal.require(Scope.MANAGE)
    visit.call.known(job_type)
    if fields.get("confirmed") != "yes":
        return ask(visit, action, job_type)
    corral = visit.api.corral
    if action == "pause":
        await corral.pause_queue(job_type)
    elif action == "resume":
        await corral.resume_queue(job_type)
    elif action == "clean":
        await corral.clean_queue(job_type, _DAY_MS)
    elif action == "retry":
        await corral.retry_jobs(job_type)
    else:
        await corral.drain_queue(job_type)
    return visit.go(f"/queues/{job_type}")


def ask(visit: Visit, action: str, what: str) -> Response:
    """The page that asks before something is done."""
    return visit.page("confirm.html", title=action.capitalize(), what=what, question=QUESTIONS[action],
                      path=visit.request.url.path)  # fmt: skip


async def login_page(request: Request) -> Response:
    """Where a token is asked for."""
    return page("login.html", title="Log in", wrong=None, target=_target(request), **anonymous(request))


async def login(request: Request) -> Response:
    """Begin a login."""
    api: Api = request.state.api
    refuse_other_sites(request)
    fields = await form(request)
    await api.guard()
    peer = request.client.host if request.client else "local"
    await RateLimiter(api.corral, prefix=api.corral.namespace).check(f"peer {peer}", "login", _LOGINS)
    try:
        cookie, lifetime = await (await sessions(api)).begin(fields.get("token", "").strip())
    except (NotAuthenticated, NotPermitted) as error:
        return page("login.html", status=401, title="Log in", wrong=str(error), target=_target(request),
                    **anonymous(request))  # fmt: skip
    answer = RedirectResponse(request.state.base + (_target(request) or "/"), 303, headers=SECURITY_HEADERS)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(lifetime.total_seconds()),
        path=request.state.base or "/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def _target(request: Request) -> str:
    """Where to go after the login: a path of the dashboard's own, never another site."""
    wanted = request.query_params.get("next", "")
    return wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) else ""


async def logout(visit: VisitDep) -> Response:
    """End the login, here and on the server."""
    await checked_form(visit)
    cookie = visit.request.cookies.get(COOKIE)
    if cookie is not None:
        await (await sessions(visit.api)).end(cookie)
    answer = visit.go("/login")
    answer.delete_cookie(COOKIE, path=visit.base or "/")
    return answer
