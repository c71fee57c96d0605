"""Markdown in the dashboard: what it may become, and what it may never become."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.interfaces.dashboard.markdown import markdown

ALLOWED = {
    "p": set(), "em": set(), "strong": set(), "s": set(), "ul": set(), "ol": {"start"}, "li": set(), "hr": set(),
    "blockquote": set(), "table": set(), "thead": set(), "tbody": set(), "tr": set(), "th": set(), "td": set(),
    "br": set(), "h3": set(), "h4": set(), "h5": set(), "h6": set(), "code": set(), "pre": {"tabindex"},
    "a": {"href", "rel"}, "span": set(),
}  # fmt: skip


class Reader(HTMLParser):
    """The tags and attributes of a text, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"br", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(html: str) -> Reader:
    """Only allowed tags with allowed attributes, each closed, and links to the web only."""
    read = Reader(html)
    for tag, attributes in read.found:
        assert tag in ALLOWED, tag
        assert set(attributes) <= ALLOWED[tag], (tag, attributes)
        if "href" in attributes:
            assert re.match(r"https?://", attributes["href"] or "", re.IGNORECASE)
    assert read.open == []
    return read


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# Why\n\nIt **must** be *so*.", "<h3>Why</h3><p>It <strong>must</strong> be <em>so</em>.</p>"),
        ("- a\n- `b < c`", "<ul><li>a</li><li><code>b &lt; c</code></li></ul>"),
        ("2. a\n3. b", '<ol start="2"><li>a</li><li>b</li></ol>'),
        ("```py\nx < 1\n```", '<pre tabindex="0"><code>x &lt; 1\n</code></pre>'),
        ("[here](https://example.com/a?b=1&c=2)",
         '<p><a href="https://example.com/a?b=1&amp;c=2" rel="noopener noreferrer nofollow">here</a></p>'),
        ("|a|\n|:-|\n|1|", "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"),
        ("~~no~~  \nyes", "<p><s>no</s><br>yes</p>"),
    ],
)  # fmt: skip
def test_what_markdown_becomes(text: str, html: str) -> None:
    assert markdown(text).replace("<br>\n", "<br>") == html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<svg/onload=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&#58;alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](vbscript:x)",
        "[x](//evil.example)",
        '[x](https://a.example/"onmouseover="alert(1))',
        "![x](javascript:alert(1))",
        "![track](https://evil.example/pixel.png)",
        "<https://a.example/'\"><script>",
        "[a]: javascript:alert(1)\n\n[a]",
        '```"><script>alert(1)</script>\nx\n```',
        "> <details open ontoggle=alert(1)>",
        "# <b>bold</b>",
        "|<script>|\n|-|\n|<img src=x>|",
        "[![x](https://a.example/p.png)](https://b.example)",
        "<!-- comment --> text",
        "&lt;script&gt;",
        "*[x*](https://a.example)",
        ">" * 500 + "deep",
        "[" * 2000,
    ],
)
def test_nothing_dangerous_comes_out(text: str) -> None:
    check(markdown(text))


def test_pictures_are_links() -> None:
    read = check(markdown("![a cat](https://pictures.example/cat.png) ![b](ftp://x/y.png)"))

    assert [tag for tag, _ in read.found] == ["p", "a", "span"]
    assert "a cat" in read.text


def test_a_very_long_text_is_cut() -> None:
    html = markdown("word " * 100_000)

    assert len(html) < 101_000
    assert "500,000 characters in all" in html


@given(st.text(alphabet=st.sampled_from(list("<>\"'&[]()!*_`~#>|-\n\\ :/xhtps.javscrip=1")), max_size=120))
def test_no_text_gets_out(text: str) -> None:
    check(markdown(text))
