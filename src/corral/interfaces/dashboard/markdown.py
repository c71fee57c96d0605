"""Markdown that anybody may have written, as HTML that can't do anything.

markdown-it reads it without HTML of its own. What comes out is then written from its tokens here, by a list of the tags
and attributes that may occur, so that neither a new plug-in nor a fault in the parser's renderer can add one. Pictures
become links: the page's content policy would not load them, and a picture's address tells its server who looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from corral.interfaces.dashboard.presenting import safe_url

if TYPE_CHECKING:
    from markdown_it.token import Token

_MAX_CHARACTERS: Final = 100_000
_TAGS: Final = frozenset(
    {"p", "em", "strong", "s", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "hr", "br"}
)
_HEADINGS: Final = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6", "h6": "h6"}
"""A page has its own two ranks above."""
_CLOSE: Final = -1


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])


def markdown(text: str) -> Markup:
    """HTML of CommonMark with tables; every character of the text that is not markup is escaped.

    Args:
        text: Cut after 100,000 characters.
    """
    shown = text[:_MAX_CHARACTERS]
    html = "".join(_written(_parser().parse(shown)))
    rest = "" if len(text) == len(shown) else f"<p>… {len(text):,} characters in all</p>"
    return Markup(html + rest)  # noqa: S704 - made of the tags below and of escaped text


def _written(tokens: Iterable[Token]) -> Iterable[str]:
    in_link: list[bool] = []
    for token in tokens:
        match token.type:
            case "inline":
                yield from _written(token.children or ())
            case "text":
                yield escape(token.content)
            case "softbreak":
                yield "\n"
            case "code_inline":
                yield f"<code>{escape(token.content)}</code>"
            case "fence" | "code_block":
                yield f'<pre tabindex="0"><code>{escape(token.content)}</code></pre>'
            case "image":
                link = None if any(in_link) else _link_to(str(token.attrs.get("src", "")))
                yield f"{link or '<span>'}{escape(token.content or 'picture')}{'</a>' if link else '</span>'}"
            case "link_open":
                link = _link_to(str(token.attrs.get("href", "")))
                in_link.append(link is not None)
                yield link or ""
            case "link_close":
                yield "</a>" if in_link.pop() else ""
            case _:
                yield _tag(token)


def _link_to(address: str) -> str | None:
    """The start of a link; None when the address is none that a link may have."""
    if safe_url(address) is None:
        return None
    return f'<a href="{escape(address)}" rel="noopener noreferrer nofollow">'


def _tag(token: Token) -> str:
    if token.hidden:  # the paragraphs of a tight list
        return ""
    name = _HEADINGS.get(token.tag, token.tag)
    if name not in _TAGS and name not in _HEADINGS.values():
        return str(escape(token.content))
    if token.nesting == _CLOSE:
        return f"</{name}>"
    start = token.attrs.get("start") if name == "ol" else None
    number = f' start="{start}"' if isinstance(start, int) else ""
    return f"<{name}{number}>"
