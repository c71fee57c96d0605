"""A file cut into pieces worth finding: along its definitions where a grammar knows them, else along its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from corral.errors import ExtraMissing
from corral.jobs.codebase_indexing.languages import CONTAINERS, DATA, DEFINITIONS, FUNCTION, METHOD, PROSE, SECTION
from corral.jobs.codebase_indexing.python_definitions import Found, python_definitions

CHUNKS_VERSION = 3
"""Part of every index's identity: raise it when the same file would be cut otherwise."""

TARGET_CHARS = 1500
"""Small neighbours are joined up to this size and larger definitions are cut; see docs/decisions/0050."""
_MAX_DATA_CHUNKS = 40
_MAX_DEPTH = 12
_PARSE_LIMIT_BYTES = 512 * 1024
_MAX_NAME = 120
_LEADING = re.compile(r"\s*(?:#|//|/\*|\*|--|@|\[|<!--|'''|%|;|template\b)")
_HEADING = re.compile(r"#{1,6}\s+(.{1,120})")
_IMPORT_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("javascript", "typescript", "tsx", "vue", "svelte", "astro"), ("import", "export", "require(")),
    **dict.fromkeys(("c", "cpp", "objc"), ("#include", "# include", "#import")),
    **dict.fromkeys(("ruby", "lua"), ("require",)),
    "rust": ("use ",),
    "csharp": ("using ",),
    "php": ("use ", "require", "include"),
    "go": (),
    "css": (),
    "html": (),
}
_ANY_IMPORT = ("import ",)
_GO_IMPORTS = re.compile(r'^import\s*(?:\(([^)]{0,8000})\)|[\w.]*\s*("[^"\n]{1,200}"))', re.MULTILINE)
_GO_PATH = re.compile(r'"([^"\n]{1,200})"')
_IMPORT = re.compile(
    r"""(?:
        from\s+([.\w]+)\s+import\b
      | (?:import|export)\b[^'"\n]{0,300}['"]([^'"\n]{1,200})['"]
      | import\s+(?:static\s+)?(?:type\s+)?([\w.*]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+(?:\s+as\s+\w+)?)*)
      | [^'"\n]{0,80}\b(?:require|include|require_once|require_relative|include_once)\s*\(?\s*['"]([^'"\n]{1,200})['"]
      | \#\s*(?:include|import)\s*[<"]([^>"\n]{1,200})[>"]
      | (?:pub\s+)?use\s+([\w:\\]{1,200})
      | using\s+(?:static\s+)?([\w.]{1,200})\s*;
    )""",
    re.VERBOSE,
)
_MAX_IMPORTS = 200


@dataclass(frozen=True, slots=True)
class Symbol:
    """One definition in a file; lines count from 1, both ends belong to it."""

    name: str
    kind: str
    start_line: int
    end_line: int
    #: Name of the definition around it, or ``""``.
    parent: str = ""

    @property
    def qualified(self) -> str:
        """The name with its parent's, as ``Parent.name``."""
        return f"{self.parent}.{self.name}" if self.parent else self.name


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of lines; lines count from 1, both ends belong to it."""

    start_line: int
    end_line: int
    text: str
    #: What begins in it, outermost first; for a piece of a long definition, that definition.
    symbols: tuple[Symbol, ...] = ()
    #: Whether the chunk holds the beginning of ``symbols[0]``.
    defines: bool = False


@dataclass(frozen=True, slots=True)
class FileChunks:
    """All of one file."""

    chunks: tuple[Chunk, ...]
    symbols: tuple[Symbol, ...]
    #: Modules and files it imports or includes, as written.
    imports: tuple[str, ...]
    lines: int


@dataclass(slots=True)
class _Definition:
    start: int  # row, from 0
    end: int  # row, inclusive
    symbol: Symbol


@cache
def _grammar(language: str) -> tuple[Any, Any, tuple[str, ...]] | None:
    """Parser and query cursor for a language; None when no grammar knows its definitions."""
    kinds = DEFINITIONS.get(language)
    if not kinds:
        return None
    try:
        import tree_sitter  # noqa: PLC0415 - optional: the ``index`` extra
        from tree_sitter_language_pack import get_language  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from error
    grammar = get_language(language)  # type: ignore[arg-type]  # its Literal lists the same names
    present = {kind for node, kind in kinds.items() if grammar.id_for_node_kind(node, True) is not None}
    patterns = [f"({node}) @{kind}" for node, kind in kinds.items() if grammar.id_for_node_kind(node, True) is not None]
    query = tree_sitter.Query(grammar, "\n".join(patterns))
    return tree_sitter.Parser(grammar), query, tuple(sorted(present))


def chunk_file(text: str, language: str) -> FileChunks:
    """Cut a file.

    Args:
        text: Its whole text, with any line ends; never altered, so that line numbers stay true.
        language: As ``languages.language_of`` says.

    Raises:
        ExtraMissing: tree-sitter is not installed.
    """
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if language in PROSE:
        definitions = _headings(lines) if language == "markdown" else []
    elif language == "python":
        definitions = _nested(python_definitions(text, lines))
    elif len(text) <= _PARSE_LIMIT_BYTES:
        definitions = _definitions(text, language)
    else:
        definitions = []  # a parse of that much could take seconds, and its grain would be lost in it anyway
    lead = _lead_rows(lines, definitions)
    chunks = _cut(lines, definitions, lead)
    if language in DATA:
        chunks = chunks[:_MAX_DATA_CHUNKS]
    symbols = tuple(definition.symbol for definition in definitions)
    imports = () if language in PROSE or language in DATA else _imports(text, language)
    return FileChunks(chunks=tuple(chunks), symbols=symbols, imports=imports, lines=len(lines))


def _imports(text: str, language: str) -> tuple[str, ...]:
    """Found by their keyword first: most lines of most files import nothing."""
    seen: dict[str, None] = {}
    if language == "go":
        for block, single in _GO_IMPORTS.findall(text):
            seen.update(dict.fromkeys(_GO_PATH.findall(block or single)))
    for word in _IMPORT_WORDS.get(language, _ANY_IMPORT):
        at = text.find(word)
        while at >= 0 and len(seen) < _MAX_IMPORTS:
            begin = text.rfind("\n", 0, at) + 1
            line = text[begin : begin + 400].partition("\n")[0]
            if match := _IMPORT.match(line.lstrip()):
                for name in match[match.lastindex or 0].split(","):
                    seen[name.partition(" as ")[0].strip()] = None
            at = text.find(word, max(at + len(word), begin + len(line)))
    return tuple(seen)


def _headings(lines: Sequence[str]) -> list[_Definition]:
    found: list[_Definition] = []
    fenced = False
    for row, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and (match := _HEADING.match(line)):
            name = match[1].strip().rstrip("#").strip()
            if found:
                found[-1].end = row - 1
                found[-1].symbol = _until(found[-1].symbol, row)
            found.append(_Definition(row, len(lines) - 1, Symbol(name, SECTION, row + 1, len(lines))))
    return found


def _until(symbol: Symbol, end_line: int) -> Symbol:
    return Symbol(symbol.name, symbol.kind, symbol.start_line, end_line, symbol.parent)


def _definitions(text: str, language: str) -> list[_Definition]:
    """Definitions in the order of their beginnings, outer before inner."""
    grammar = _grammar(language)
    if grammar is None:
        return []
    import tree_sitter  # noqa: PLC0415 - loaded by _grammar

    parser, query, _ = grammar
    tree = parser.parse(text.encode("utf-8", "replace"))
    found: list[Found] = []
    for kind, nodes in tree_sitter.QueryCursor(query).captures(tree.root_node).items():
        for node in nodes:
            start, end = node.start_point.row, node.end_point.row
            if node.end_point.column == 0 and end > start:
                end -= 1
            if kind == "constant" and not _is_function_valued(node):
                continue
            if name := _name_of(node):
                found.append(((node.start_byte, -node.end_byte), start, end, kind, name))
    found.sort()
    return _nested(found)


def _nested(found: Sequence[Found]) -> list[_Definition]:
    definitions: list[_Definition] = []
    around: list[tuple[int, _Definition]] = []  # where each ends, as its place is counted
    for (place, negative_end), start, end, kind, name in found:
        while around and around[-1][0] <= place:
            around.pop()
        outer = around[-1][1] if around else None
        if outer and outer.start == start and outer.symbol.name == name and kind not in {FUNCTION, METHOD}:
            continue  # a typedef around its struct: one thing
        if kind == FUNCTION and outer and outer.symbol.kind in CONTAINERS:
            kind = METHOD  # noqa: PLW2901
        parent = outer.symbol.name if outer else ""
        definition = _Definition(start, end, Symbol(name, kind, start + 1, end + 1, parent))
        definitions.append(definition)
        if len(around) < _MAX_DEPTH:
            around.append((-negative_end, definition))
    return definitions


_FUNCTION_VALUES = frozenset({"arrow_function", "function_expression", "function", "class", "generator_function"})


def _is_function_valued(node: Any) -> bool:
    value = node.child_by_field_name("value")
    return value is not None and value.type in _FUNCTION_VALUES


_NAME_FIELDS = ("name", "declarator", "function", "type", "pattern", "left")
_WRAPPERS = frozenset(
    "signature call_expression type_head let_binding type_binding module_binding targets object_reference "
    "subroutine_statement function_statement module_statement function_command macro_command argument_list argument "
    "FnProto namespace_definition".split()
)
_NAMELIKE = re.compile(
    r"identifier|name$|constant$|^word$|^variable$|^atom$|^string_lit$|^type$|^operator|^value_name|^scoped|argument$",
    re.IGNORECASE,
)


def _name_of(node: Any) -> str:
    """The defined name, found through declarators and wrappers at most six deep; ``""`` for an anonymous one."""
    for _ in range(6):
        inner = None
        for field_name in _NAME_FIELDS:
            inner = node.child_by_field_name(field_name)
            if inner is not None:
                break
        if inner is None:
            children = node.named_children[:4]
            inner = next((child for child in children if _NAMELIKE.search(child.type)), None) or next(
                (child for child in children if child.type in _WRAPPERS), None
            )
        if inner is None:
            return ""
        if inner.named_child_count == 0 or _NAMELIKE.search(inner.type):
            raw: bytes = inner.text or b""
            name = " ".join(raw.decode("utf-8", "replace").split())
            return name[:_MAX_NAME].strip("\"'")
        node = inner
    return ""


def _lead_rows(lines: Sequence[str], definitions: Sequence[_Definition]) -> dict[int, int]:
    """For a definition's first row, the row where its comments and decorators begin."""
    lead: dict[int, int] = {}
    for definition in definitions:
        row = definition.start
        while row > 0 and row > definition.start - 30:
            above = lines[row - 1]
            if not above.strip() or not _LEADING.match(above):
                break
            row -= 1
        lead[definition.start] = row
    return lead


def _cut(lines: Sequence[str], definitions: Sequence[_Definition], lead: dict[int, int]) -> list[Chunk]:
    """Greedy packing: whole definitions where they fit, their insides where they don't."""
    sizes = list(accumulate(map(len, lines), initial=0))
    pieces: list[tuple[int, int]] = []  # rows, end exclusive
    _Packer(sizes, definitions, lead, pieces).pack()
    chunks: list[Chunk] = []
    position = 0
    open_definitions: list[_Definition] = []
    for start, end in pieces:
        inside: list[Symbol] = []
        open_definitions = [definition for definition in open_definitions if definition.end >= start]
        around = [definition.symbol for definition in open_definitions[-1:]]
        while position < len(definitions) and definitions[position].start < end:
            definition = definitions[position]
            inside.append(definition.symbol)
            open_definitions.append(definition)
            position += 1
        body = "\n".join(lines[start:end])
        if not body.strip():
            continue
        symbols = tuple(inside) if inside else tuple(around)
        chunks.append(Chunk(start + 1, end, body, symbols, defines=bool(inside)))
    return chunks


@dataclass(slots=True)
class _Packer:
    sizes: Sequence[int]
    definitions: Sequence[_Definition]
    lead: dict[int, int]
    pieces: list[tuple[int, int]]

    def pack(self) -> None:
        """Choose cuts among the definitions' beginnings and ends; iterative, as nesting is the repository's choice."""
        total = len(self.sizes) - 1
        cuts: list[tuple[int, int]] = []  # row, depth: outer cuts are preferred
        ends: list[int] = []
        for definition in self.definitions:
            while ends and ends[-1] < definition.start:
                ends.pop()
            depth = len(ends)
            cuts.append((self.lead[definition.start], depth))
            cuts.append((definition.end + 1, depth))
            ends.append(definition.end)
        depth_of: dict[int, int] = {}
        for row, depth in cuts:
            if 0 < row < total:
                depth_of[row] = min(depth, depth_of.get(row, depth))
        rows = sorted(depth_of)
        start, index = 0, 0
        while start < total:
            while index < len(rows) and rows[index] <= start:
                index += 1
            end = self._end_of_piece(start, rows, index, depth_of, total)
            self.pieces.append((start, end))
            start = end

    def _end_of_piece(self, start: int, rows: Sequence[int], index: int, depth_of: dict[int, int], total: int) -> int:
        sizes = self.sizes
        limit = sizes[start] + TARGET_CHARS
        if sizes[total] <= limit:
            return total
        best, best_depth = 0, _MAX_DEPTH + 1
        while index < len(rows) and sizes[rows[index]] <= limit:
            row = rows[index]
            # The last of the outermost cuts that fit; a tiny first piece isn't worth an outer cut.
            if depth_of[row] <= best_depth or sizes[best] - sizes[start] < TARGET_CHARS // 5:
                best, best_depth = row, depth_of[row]
            index += 1
        if best > start and sizes[best] - sizes[start] >= TARGET_CHARS // 10:
            return best  # else a class's head alone: better with the beginning of its body
        # No cut in reach: a long body. Take lines up to the limit, at least one.
        row = start + 1
        while row < total and sizes[row + 1] <= limit:
            row += 1
        if index < len(rows) and rows[index] < row:
            return rows[index]
        return row
