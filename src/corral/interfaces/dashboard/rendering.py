"""Pages from templates. Every value is escaped by Jinja; nothing in a template is marked safe.

Markdown and charts come as markup, made by `markdown` and `charts`, which escape what they are given.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from corral.interfaces.dashboard import presenting
from corral.interfaces.dashboard.markdown import markdown

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("corral.interfaces.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "pretty": presenting.pretty,
        "duration": presenting.duration,
        "age": presenting.age,
        "diff_lines": presenting.diff_lines,
        "safe_url": presenting.safe_url,
        "markdown": markdown,
        "path": lambda value: quote(str(value), safe=""),
        "moment": _moment,
        "peer": presenting.peer,
        "clock": _clock,
        "number": lambda value: f"{value:,}",
    }
    return environment


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _clock(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d} UTC"


def render(template: str, **values: Any) -> str:
    """A page or a part of one, as text."""
    return _environment().get_template(template).render(**values)


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page as an answer."""
    return HTMLResponse(render(template, **values), status_code=status, headers=SECURITY_HEADERS)
