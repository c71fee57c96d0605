"""The ways in which models spoil an edit: each makes a case of a hunk, or nothing where it doesn't apply."""

from __future__ import annotations

import dataclasses
import difflib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.edits.corpus import Hunk


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, an edit as a model might write it, and what must come out."""

    file: bytes
    search: str
    replace: str
    expected: bytes | None
    """None: it can't be told what is meant, so the edit is better refused."""
    lucky: bytes | None = None
    """Where ``expected`` is None: what comes out at the place that was meant, which is not wrong either."""
    diff: bool = False
    """The edit is the text of a unified diff, in ``search``."""


Spoiling = Callable[[Hunk, random.Random], Case | None]


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _case(
    hunk: Hunk, search: Sequence[str], replace: Sequence[str], *, known: bool = True, file: Sequence[str] | None = None,
    expected: Sequence[str] | None = None,
) -> Case:  # fmt: skip
    result = hunk.new if expected is None else expected
    return Case(
        file=_text(hunk.old if file is None else file).encode(),
        search=_text(search),
        replace=_text(replace),
        expected=_text(result).encode() if known else None,
    )


def _occurs(lines: Sequence[str], block: Sequence[str], normal: Callable[[str], str] = lambda line: line) -> int:
    """How often a block occurs: a place is recoverable when the answer is one."""
    have, wanted = [normal(line) for line in lines], [normal(line) for line in block]
    return sum(have[at : at + len(wanted)] == wanted for at in range(len(have) - len(wanted) + 1))


def _both(hunk: Hunk, change: Callable[[str], str]) -> tuple[list[str], list[str]]:
    """Spoil the quoted lines, and in the replacement those that are quoted unchanged; new lines are as they must be."""
    kept: list[str] = []
    matcher = difflib.SequenceMatcher(None, list(hunk.search), list(hunk.replace), autojunk=False)
    for tag, _, _, start, end in matcher.get_opcodes():
        kept.extend(change(line) if tag == "equal" else line for line in hunk.replace[start:end])
    return [change(line) for line in hunk.search], kept


def nothing(hunk: Hunk, _: random.Random) -> Case:
    return _case(hunk, hunk.search, hunk.replace, known=_occurs(hunk.old, hunk.search) == 1)


def lost_indentation(hunk: Hunk, _: random.Random) -> Case | None:
    both = [line for line in (*hunk.search, *hunk.replace) if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in both)
    if not margin:
        return None
    search, replace = ([line[margin:] for line in lines] for lines in (hunk.search, hunk.replace))
    return _case(hunk, search, replace, known=_occurs(hunk.old, hunk.search, str.strip) == 1)


def first_line_flush_left(hunk: Hunk, _: random.Random) -> Case | None:
    if not hunk.search[0].startswith((" ", "\t")) or hunk.search[0] != hunk.replace[0] or not hunk.search[0].strip():
        return None
    search = [hunk.search[0].lstrip(), *hunk.search[1:]]
    replace = [hunk.replace[0].lstrip(), *hunk.replace[1:]]
    return _case(hunk, search, replace, known=_occurs(hunk.old, hunk.search, str.strip) == 1)


def tabs_for_spaces(hunk: Hunk, _: random.Random) -> Case | None:
    def tabs(line: str) -> str:
        width = len(line) - len(line.lstrip(" "))
        return "\t" * (width // 4) + " " * (width % 4) + line[width:]

    search, replace = [tabs(line) for line in hunk.search], [tabs(line) for line in hunk.replace]
    if search == list(hunk.search):
        return None
    known = _occurs(hunk.old, hunk.search, str.strip) == 1
    # Indentations that only new lines have, and that are no whole levels, are nowhere to be learned from.
    if any((len(line) - len(line.lstrip(" "))) % 4 for line in hunk.replace if line not in hunk.search):
        return None
    return _case(hunk, search, replace, known=known)


def trailing_space(hunk: Hunk, chance: random.Random) -> Case:
    spoiled = {at for at in range(len(hunk.search)) if chance.random() < 0.5} or {0}
    search = [line + "  " if at in spoiled else line for at, line in enumerate(hunk.search)]
    replace = [line + "  " if line in hunk.search else line for line in hunk.replace]
    kept = _carried(hunk, search, replace)
    return _case(hunk, search, kept, known=_occurs(hunk.old, hunk.search, str.rstrip) == 1)


def _carried(hunk: Hunk, search: Sequence[str], _: Sequence[str]) -> list[str]:
    """The replacement with the quoted lines spelled as in ``search``."""
    kept: list[str] = []
    matcher = difflib.SequenceMatcher(None, list(hunk.search), list(hunk.replace), autojunk=False)
    for tag, old_start, old_end, start, end in matcher.get_opcodes():
        kept.extend(search[old_start:old_end] if tag == "equal" else hunk.replace[start:end])
    return kept


def smart_quotes(hunk: Hunk, _: random.Random) -> Case | None:
    def smart(line: str) -> str:
        line = re.sub(r'"([^"]*)"', "\u201c\\1\u201d", line)
        return line.replace("'", "\u2019").replace(" - ", " \u2013 ")

    search, replace = _both(hunk, smart)
    if search == list(hunk.search):
        return None
    return _case(hunk, search, replace, known=_occurs(hunk.old, hunk.search, _plain_quotes) == 1)


def _plain_quotes(line: str) -> str:
    return re.sub("[\u201c\u201d]", '"', re.sub("[\u2018\u2019]", "'", line)).replace("\u2013", "-").rstrip()


def inner_spacing(hunk: Hunk, _: random.Random) -> Case | None:
    def wide(line: str) -> str:
        indent = line[: len(line) - len(line.lstrip())]
        return indent + re.sub(r"(?<=[\w)\]]), ", ",", re.sub(r"(?<=\w) = (?=\w)", "  =  ", line.lstrip()))

    search, replace = _both(hunk, wide)
    if search == list(hunk.search):
        return None
    dense = _occurs(hunk.old, hunk.search, lambda line: "".join(line.split()))
    return _case(hunk, search, replace, known=dense == 1)


def dropped_blank_lines(hunk: Hunk, _: random.Random) -> Case | None:
    # Only blank lines between quoted lines: around the change itself they are part of it.
    inner = [
        at
        for at, line in enumerate(hunk.search)
        if not line.strip() and 0 < at < len(hunk.search) - 1 and not {at - 1, at, at + 1} & set(hunk.touched)
    ]
    matcher = difflib.SequenceMatcher(None, list(hunk.search), list(hunk.replace), autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    inner = [at for at in inner if all(at < code[1] - 1 or at > code[2] for code in changes)]
    if not inner or len(changes) > 1:
        return None
    at = inner[0]
    old_start, _old_end, start, end = changes[0][1:]
    replaced_at = at if at < old_start else at + (end - start) - (changes[0][2] - old_start)
    search = [*hunk.search[:at], *hunk.search[at + 1 :]]
    replace = [*hunk.replace[:replaced_at], *hunk.replace[replaced_at + 1 :]]
    solid = [line for line in hunk.old if line.strip()]
    return _case(hunk, search, replace, known=_occurs(solid, [line for line in hunk.search if line.strip()]) == 1)


def elided_lines(hunk: Hunk, _: random.Random) -> Case | None:
    """Quote further back, and leave the lines in between out by a remark."""
    begin = max(0, hunk.start - 12)
    head, gap = hunk.old[begin : begin + 3], hunk.old[begin + 3 : hunk.start]
    if len(gap) < 3 or not any(line.strip() for line in head):
        return None
    mark = "// ..." if hunk.path.endswith((".js", ".ts")) else "# ..."
    search = [*head, mark, *hunk.search]
    replace = [*head, mark, *hunk.replace]
    while head and not head[0].strip():
        head = head[1:]
    known = _occurs(hunk.old, head) == 1 and _occurs(hunk.old[begin + 3 :], hunk.search) == 1
    # A block that holds such a remark itself says two things at once.
    if any(line.strip() in {"...", "# ...", "// ..."} for line in hunk.search):
        return None
    case = _case(hunk, search, replace, known=known)
    # The head may stand in several places and the change itself in one: landing there is what was meant.
    told = not known and _occurs(hunk.old, hunk.search) == 1
    return dataclasses.replace(case, lucky=_text(hunk.new).encode()) if told else case


def stale_context(hunk: Hunk, chance: random.Random) -> Case | None:
    """Somebody changed a line beside the change after the model had read it."""
    solid = [at for at, line in enumerate(hunk.search) if len(line.strip()) > 8 and at not in hunk.touched]
    if len([line for line in hunk.search if line.strip()]) < 6 or not solid:
        return None
    if _occurs(hunk.old, hunk.search) != 1:
        return None
    at = chance.choice(solid)
    line = hunk.search[at]
    words = list(re.finditer(r"[A-Za-z]{3,}", line))
    if not words:
        return None
    word = chance.choice(words)
    changed = line[: word.start()] + word.group() + "_v2" + line[word.end() :]
    file = [*hunk.old]
    file[hunk.start + at] = changed
    copied = [number for number, other in enumerate(hunk.replace) if other == line]
    if len(copied) != 1 or hunk.search.count(line) != 1:
        return None
    replace = list(hunk.replace)
    replace[copied[0]] = changed
    expected = [*file[: hunk.start], *replace, *file[hunk.end :]]
    return _case(hunk, hunk.search, hunk.replace, file=file, expected=expected)


def stale_target(hunk: Hunk, chance: random.Random) -> Case | None:
    """Somebody changed the very line that the edit replaces: applying it would undo that."""
    lines = [at for at in hunk.touched if len(hunk.search[at].strip()) > 8]
    if not lines or _occurs(hunk.old, hunk.search) != 1:
        return None
    at = chance.choice(lines)
    file = [*hunk.old]
    file[hunk.start + at] += "  + 1"
    return _case(hunk, hunk.search, hunk.replace, file=file, known=False)


def repeated_neighbour(hunk: Hunk, _: random.Random) -> Case:
    """The same lines occur once more: which are meant can't be told."""
    file = [*hunk.old[: hunk.end], "", "", *hunk.search, *hunk.old[hunk.end :]]
    return _case(hunk, hunk.search, hunk.replace, file=file, known=False)


def similar_neighbour(hunk: Hunk, chance: random.Random) -> Case | None:
    """Nearly the same lines occur once more, before the ones that are meant; the quote is exact."""
    solid = [at for at, line in enumerate(hunk.search) if line.strip()]
    if _occurs(hunk.old, hunk.search) != 1:
        return None
    twin = list(hunk.search)
    at = chance.choice(solid)
    twin[at] += "  # twin"
    file = [*twin, "", "", *hunk.old]
    expected = [*twin, "", "", *hunk.new]
    return _case(hunk, hunk.search, hunk.replace, file=file, expected=expected)


def similar_neighbour_and_stale(hunk: Hunk, chance: random.Random) -> Case | None:
    """A twin elsewhere, and the quote fits neither exactly."""
    stale = stale_context(hunk, chance)
    if stale is None or stale.expected is None:
        return None
    lines = stale.file.decode().splitlines()
    twin = list(lines[hunk.start : hunk.end])
    solid = [at for at, line in enumerate(twin) if line.strip() and at not in hunk.touched]
    twin[chance.choice(solid)] += "  # twin"
    case = _case(hunk, hunk.search, hunk.replace, file=[*twin, "", "", *lines], known=False)
    return dataclasses.replace(case, lucky=_text([*twin, "", ""]).encode() + stale.expected)


def only_the_changed_lines(hunk: Hunk, _: random.Random) -> Case | None:
    """No context at all, or one line of it for an insertion."""
    if not hunk.touched:
        return None
    matcher = difflib.SequenceMatcher(None, list(hunk.search), list(hunk.replace), autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    first, last = changes[0], changes[-1]
    search, replace = hunk.search[first[1] : last[2]], hunk.replace[first[3] : last[4]]
    if not any(line.strip() for line in search):
        return None
    return _case(hunk, search, replace, known=1 in {_occurs(hunk.old, search), _occurs(hunk.old, _solid(search))})


def _solid(lines: Sequence[str]) -> Sequence[str]:
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def wrong_line_numbers(hunk: Hunk, chance: random.Random) -> Case:
    body: list[str] = []
    matcher = difflib.SequenceMatcher(None, list(hunk.search), list(hunk.replace), autojunk=False)
    for tag, old_start, old_end, start, end in matcher.get_opcodes():
        if tag == "equal":
            body.extend(f" {line}" for line in hunk.search[old_start:old_end])
        else:
            body.extend(f"-{line}" for line in hunk.search[old_start:old_end])
            body.extend(f"+{line}" for line in hunk.replace[start:end])
    at = chance.randrange(1, len(hunk.old) + 200)
    head = f"@@ -{at},{chance.randrange(1, 40)} +{at + 3},{chance.randrange(1, 40)} @@"
    case = nothing(hunk, chance)
    text = _text(["--- a/file", "+++ b/file", head, *body])
    return Case(file=case.file, search=text, replace="", expected=case.expected, diff=True)


def windows_line_endings(hunk: Hunk, chance: random.Random) -> Case:
    case = nothing(hunk, chance)
    expected = case.expected.replace(b"\n", b"\r\n") if case.expected is not None else None
    return Case(file=case.file.replace(b"\n", b"\r\n"), search=case.search, replace=case.replace, expected=expected)


def no_last_newline(hunk: Hunk, chance: random.Random) -> Case:
    case = nothing(hunk, chance)
    expected = case.expected[:-1] if case.expected is not None else None
    return Case(file=case.file[:-1], search=case.search, replace=case.replace, expected=expected)


SPOILINGS: dict[str, Spoiling] = {
    function.__name__: function
    for function in (
        nothing, lost_indentation, first_line_flush_left, tabs_for_spaces, trailing_space, smart_quotes, inner_spacing,
        dropped_blank_lines, elided_lines, stale_context, stale_target, repeated_neighbour, similar_neighbour,
        similar_neighbour_and_stale, only_the_changed_lines, wrong_line_numbers, windows_line_endings, no_last_newline,
    )
}  # fmt: skip
