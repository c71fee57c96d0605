"""Repositories and queries to measure search with.

Repositories are source distributions, unpacked. Each becomes a folder without the documentation that queries are made
from: a query is a docstring's first sentence, and that docstring is cut out of the text that is indexed. Other queries
are names of definitions, names of test functions (the answer is the module that the test is named after), and questions
written by hand (``questions.tsv``).
"""

from __future__ import annotations

import ast
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TUNED = (
    "Django-5.2",
    "celery-5.7.0",
    "networkx-3.4",
    "buildbot-4.3.0",
    "mercurial-7.2.4",
    "salt-3008.5",
    "three-0.170.0",
    "rxjs-7.8.1",
)
"""What weights and steps were chosen on."""
KEPT_BACK = (
    "sphinx-8.1.3",
    "twisted-26.10.0",
    "ansible_core-2.18.1",
    "sympy-1.14.0",
    "webpack-5.97.0",
    "eslint-9.16.0",
)
"""Nothing was tuned on these: they are asked once, when everything is chosen."""
SEED = 12

_SKIP = re.compile(r"(?:^|/)(?:node_modules|dist|build/(?!.*\.py)|locale|\.git)(?:/|$)|\.min\.js$|/build/three")
_JSDOC = re.compile(
    r"/\*\*((?:(?!\*/)[\s\S]){20,1500})\*/\s*\n\s*(?:export\s+)?(?:default\s+)?(?:async\s+)?(?:static\s+)?"
    r"(?:function\*?|class|const)?\s*([A-Za-z_$][\w$]*)\s*[(={]"
)


@dataclass(frozen=True)
class Query:
    kind: str
    repository: str
    text: str
    answers: tuple[str, ...]


def is_test(path: str) -> bool:
    return bool(
        re.search(r"(?:^|/)(?:tests?|testing|spec|__tests__|test_[^/]*|[^/]*_test\.py|conftest\.py)(?:/|$)", path)
    )


def prepare(raw: Path, out: Path, per_repository: int, seed: int) -> list[Query]:
    """Copy a repository's text files with the queried docstrings cut out, commit them, and give the queries."""
    choice = random.Random(seed)
    files = {
        str(path.relative_to(raw)): path
        for path in sorted(raw.rglob("*"))
        if path.is_file() and not path.is_symlink() and not _SKIP.search(str(path.relative_to(raw)))
        and path.stat().st_size < 2_000_000
    }  # fmt: skip
    texts: dict[str, str] = {}
    for name, path in files.items():
        if path.suffix in {".py", ".js", ".ts", ".jsx", ".tsx", ".mjs", ".c", ".h", ".rst", ".md", ".txt", ".html",
                           ".css", ".json", ".yml", ".yaml", ".toml", ".cfg", ".sh", ".glsl"}:  # fmt: skip
            texts[name] = path.read_text("utf-8", "replace")
    documented: list[tuple[str, str, tuple[int, int], str]] = []
    for name, text in texts.items():
        if is_test(name) or "example" in name or "docs/" in name:
            continue
        if name.endswith(".py"):
            documented += [(name, *found) for found in _python_docs(text)]
        elif name.endswith((".js", ".ts", ".mjs")):
            documented += [(name, *found) for found in _javascript_docs(text)]
    repository = out.name
    queries: list[Query] = []
    choice.shuffle(documented)
    cut: dict[str, list[tuple[int, int]]] = {}
    per_file: dict[str, int] = {}
    for name, _symbol, span, sentence in documented:
        if len(queries) >= per_repository or per_file.get(name, 0) >= 2:
            continue
        per_file[name] = per_file.get(name, 0) + 1
        cut.setdefault(name, []).append(span)
        queries.append(Query("docstring", repository, sentence, (name,)))
    queries += _name_queries(texts, repository, choice, per_repository // 2)
    queries += _test_queries(texts, repository, choice, per_repository // 2)
    out.mkdir(parents=True)
    for name, text in texts.items():
        for begin, end in sorted(cut.get(name, []), reverse=True):
            text = text[:begin] + text[end:]  # noqa: PLW2901 - cut from the end on
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    git = ["git", "-C", str(out), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "corpus"], check=True)
    return queries


def _sentence(documentation: str) -> str | None:
    text = " ".join(documentation.strip().split("\n\n")[0].split())
    text = re.split(r"(?<=[.!?])\s|\s[:@]\w+", text)[0][:200]
    return text if len(text.split()) >= 5 else None


def _python_docs(text: str) -> list[tuple[str, tuple[int, int], str]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or len(node.body) < 2:
            continue
        documentation = ast.get_docstring(node)
        sentence = _sentence(documentation) if documentation else None
        first = node.body[0]
        if sentence and first.end_lineno:
            found.append((node.name, (starts[first.lineno - 1], starts[first.end_lineno]), sentence))
    return found


def _javascript_docs(text: str) -> list[tuple[str, tuple[int, int], str]]:
    found = []
    for match in _JSDOC.finditer(text):
        lines = [line.strip().lstrip("*").strip() for line in match[1].split("\n")]
        plain = " ".join(line for line in lines if not line.startswith("@"))
        sentence = _sentence(plain)
        if sentence:
            found.append((match[2], (match.start(), match.start() + len(match[0].split("*/")[0]) + 2), sentence))
    return found


def _name_queries(texts: dict[str, str], repository: str, choice: random.Random, count: int) -> list[Query]:
    where: dict[str, set[str]] = {}
    pattern = re.compile(r"^\s*(?:export\s+)?(?:async\s+)?(?:def|class|function)\s+([A-Za-z_]\w{5,})", re.MULTILINE)
    for name, text in texts.items():
        if name.endswith((".py", ".js", ".ts")):
            for symbol in pattern.findall(text):
                where.setdefault(symbol, set()).add(name)
    single = sorted((symbol, next(iter(names))) for symbol, names in where.items() if len(names) == 1)
    usable = [(symbol, name) for symbol, name in single if not is_test(name) and not symbol.startswith("__")]
    return [
        Query("name", repository, symbol, (name,)) for symbol, name in choice.sample(usable, min(count, len(usable)))
    ]


def _test_queries(texts: dict[str, str], repository: str, choice: random.Random, count: int) -> list[Query]:
    by_stem: dict[str, list[str]] = {}
    for name in texts:
        if not is_test(name) and name.endswith((".py", ".js", ".ts")):
            by_stem.setdefault(Path(name).stem.lower(), []).append(name)
    found: list[Query] = []
    for name, text in texts.items():
        stem = re.sub(r"^test_|_test$|[.-]spec$|[.-]test$", "", Path(name).stem.lower())
        if not is_test(name) or len(by_stem.get(stem, [])) != 1:
            continue
        names = re.findall(r"def (test_?[A-Za-z]\w{12,})", text) or re.findall(r"\bit\(\s*['\"]([^'\"]{20,})", text)
        for test in names[:40]:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", test.removeprefix("test")).strip().lower()
            if 4 <= len(words.split()) <= 14:
                found.append(Query("test", repository, words, (by_stem[stem][0],)))
    return choice.sample(found, min(count, len(found)))


def hand_written(path: Path) -> list[Query]:
    """Lines of: repository, question, answers separated by a space."""
    queries = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            repository, question, answers = line.split("\t")
            queries.append(Query("question", repository, question, tuple(answers.split())))
    return queries
