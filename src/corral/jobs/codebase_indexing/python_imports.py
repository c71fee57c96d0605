"""Which modules Python's ``from package import module`` means: the index keeps the package's name alone.

A file's imports are stored as written up to the word ``import``: every name behind it would take as much room as the
rest of them. What comes after is read again from the few files that may matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from corral.adapters.index.port import IndexReader, LexicalQuery
from corral.adapters.words import words_of

_FROM: Final = re.compile(
    r"^[ \t]*from[ \t]+([.\w]{1,200})[ \t]+import[ \t]*(\([^)]{0,8000}|(?:[^\n(\\]|\\\n){1,400})", re.MULTILINE
)
_CANDIDATES: Final = 400
_MOST_CHUNKS: Final = 120
"""Read for one answer."""


def modules_from_packages(reader: IndexReader, path: str) -> list[str]:
    """What a file imports from somewhere, each as ``import`` would name it: ``package.module``, ``..module``."""
    return list(_modules_in("\n".join(chunk.text for chunk in reader.file_chunks(path))))


def python_importers(reader: IndexReader, path: str, named: Sequence[str]) -> list[str]:
    """Files that import a module.

    Args:
        reader: Of the index.
        path: The module's.
        named: Files that import something of such a name, relative to whatever folder.
    """
    module = PurePosixPath(path).with_suffix("").parts
    if module[-1] == "__init__" and len(module) > 1:
        module = module[:-1]
    sure = {
        other
        for other in named
        if not other.endswith(".py") or any(_is_called(module, name, other) for name in reader.imports_of(other))
    }
    return sorted((sure | _from_its_package(reader, module)) - {path})


def _from_its_package(reader: IndexReader, module: Sequence[str]) -> set[str]:
    """By ``from package import module``; of many, those that say little else there."""
    words = words_of(module[-1]).split()
    from_package = set(reader.importers(_packages_of(module)))
    if not from_package or not words:
        return set()
    found = reader.candidates(LexicalQuery({"body": [(word, 1.0) for word in (*words, "import")]}), _CANDIDATES)
    paths = reader.paths(list(set(found.files.tolist())))
    pairs = zip(found.uids.tolist(), found.files.tolist(), strict=True)
    uids = [uid for uid, file in pairs if paths[file] in from_package]
    return {
        chunk.path
        for chunk in reader.chunks(uids[:_MOST_CHUNKS])
        if module[-1] in chunk.text and any(_is_called(module, name, chunk.path) for name in _modules_in(chunk.text))
    }


def _modules_in(text: str) -> Iterator[str]:
    for package, names in _FROM.findall(text):
        for line in names.removeprefix("(").split("\n"):
            for name in line.partition("#")[0].replace("\\", " ").split(","):
                module = name.strip().partition(" ")[0]
                if module.isidentifier():
                    yield f"{package}{'' if package.endswith('.') else '.'}{module}"


def _packages_of(module: Sequence[str]) -> list[str]:
    """How ``from … import`` may name the package that a module is directly in."""
    folders = module[:-1]
    dotted = [".".join(folders[begin:]) for begin in range(len(folders))]
    return [*dotted, *(f".{name}" for name in dotted), ".", "..", "...", "...."]


def _is_called(module: Sequence[str], name: str, importer: str) -> bool:
    if not f".{name}".endswith(f".{module[-1]}"):
        return False
    if not name.startswith("."):
        return f".{'.'.join(module)}".endswith(f".{name}")
    rest = name.lstrip(".")
    above = len(name) - len(rest)
    folders = PurePosixPath(importer).parent.parts
    return above <= len(folders) + 1 and [*folders[: len(folders) + 1 - above], *rest.split(".")] == list(module)
