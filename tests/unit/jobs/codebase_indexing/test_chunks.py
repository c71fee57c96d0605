from __future__ import annotations

import pytest
from tree_sitter_language_pack import get_language

from corral.jobs.codebase_indexing.chunks import TARGET_CHARS, chunk_file
from corral.jobs.codebase_indexing.languages import DEFINITIONS, language_of

SAMPLES = {
    "python": ("class A:\n    def f(self):\n        pass\n\ndef g():\n    pass\n", {"A", "A.f", "g"}),
    "javascript": ("function f() {}\nclass A { m() {} }\nconst h = () => 1;\nconst x = 3;\n", {"f", "A", "A.m", "h"}),
    "typescript": ("interface I { a(): void }\nenum E { X }\ntype T = string;\n", {"I", "I.a", "E", "T"}),
    "tsx": ("export function View() { return <p/>; }\n", {"View"}),
    "java": ("class A { A() {} int f() { return 1; } }\ninterface I {}\n", {"A", "A.A", "A.f", "I"}),
    "go": ("package p\nfunc F() {}\ntype T struct{}\nfunc (t T) M() {}\n", {"F", "T", "M"}),
    "rust": ("struct S;\nimpl S { fn f(&self) {} }\nfn g() {}\ntrait T { fn h(); }\n", {"S", "S.f", "g", "T", "T.h"}),
    "c": ("int f(int a) { return a; }\nstruct s { int x; };\nint *g(void) { return 0; }\n", {"f", "s", "g"}),
    "cpp": ("namespace n { class A { void f() {} }; }\nvoid A::g() {}\n", {"n", "n.A", "A.f", "A::g"}),
    "csharp": ("namespace N { class A { void F() {} int P { get; } } }\n", {"N", "N.A", "A.F", "A.P"}),
    "ruby": ("module M\n  class A\n    def f; end\n    def self.g; end\n  end\nend\n", {"M", "M.A", "A.f", "A.g"}),
    "php": ("<?php\nfunction f() {}\nclass A { function g() {} }\n", {"f", "A", "A.g"}),
    "swift": ("class A { func f() {} }\nprotocol P {}\n", {"A", "A.f", "P"}),
    "kotlin": ("class A { fun f() {} }\nfun g() {}\nobject O {}\n", {"A", "A.f", "g", "O"}),
    "scala": ("class A { def f = 1 }\nobject O {}\ntrait T {}\n", {"A", "A.f", "O", "T"}),
    "bash": ("f() { echo 1; }\nfunction g { echo 2; }\n", {"f", "g"}),
    "lua": ("function f() end\nlocal function g() end\n", {"f", "g"}),
    "julia": ("function f(x)\n x\nend\nstruct S\n a\nend\n", {"f", "S"}),
    "haskell": ("module M where\nf x = x + 1\ndata D = D\n", {"f", "D"}),
    "ocaml": ("let f x = x\ntype t = int\n", {"f", "t"}),
    "dart": ("class A { void f() {} }\nvoid g() {}\n", {"A", "A.f", "g"}),
    "zig": ("fn f() void {}\n", {"f"}),
    "sql": ("CREATE TABLE t (a int);\n", {"t"}),
    "proto": (
        'syntax = "proto3";\nmessage M { int32 a = 1; }\nservice S { rpc R (M) returns (M); }\n',
        {"M", "S", "S.R"},
    ),
    "graphql": ("type T { a: Int }\nenum E { A }\n", {"T", "E"}),
    "hcl": ('resource "aws_thing" "name" {\n  a = 1\n}\n', {"resource"}),
    "solidity": ("contract C { function f() public {} }\n", {"C", "C.f"}),
    "powershell": ("function Get-It { 1 }\n", {"Get-It"}),
    "erlang": ("-module(m).\n-record(r, {a}).\n", {"r"}),
    "perl": ("package P;\nsub f { 1 }\n", {"P", "f"}),
    "objc": ("@interface A : B\n@end\nint f(void) { return 1; }\n", {"A", "f"}),
    "fortran": ("subroutine s()\nend subroutine s\n", {"s"}),
    "make": ("all: a\n\techo\n", {"all"}),
    "cmake": ("function(f)\nendfunction()\n", {"f"}),
    "scss": ("@mixin m { a: b; }\n", {"m"}),
    "fish": ("function f\n echo\nend\n", {"f"}),
    "nim": ("proc f() = discard\n", {"f"}),
}


@pytest.mark.parametrize("language", sorted(SAMPLES))
def test_definitions_are_found_in(language: str) -> None:
    text, expected = SAMPLES[language]
    assert {symbol.qualified for symbol in chunk_file(text, language).symbols} >= expected


def test_every_node_type_exists_in_its_grammar() -> None:
    unknown = {
        (language, node)
        for language, kinds in DEFINITIONS.items()
        for node in kinds
        if get_language(language).id_for_node_kind(node, True) is None  # type: ignore[arg-type]
    }
    assert unknown == set()


def test_at_least_twenty_languages_have_definitions() -> None:
    assert sum(1 for kinds in DEFINITIONS.values() if kinds) >= 20


def test_chunks_cover_every_line_once_and_stay_small() -> None:
    text = "\n\n".join(f"def function_{n}(a, b):\n    total = a + b\n    return total * {n}" for n in range(200))
    chunks = chunk_file(text, "python").chunks
    covered = [line for chunk in chunks for line in range(chunk.start_line, chunk.end_line + 1)]
    assert covered == list(range(1, text.count("\n") + 2))
    assert all(len(chunk.text) <= TARGET_CHARS * 1.2 for chunk in chunks)


def test_a_definition_that_fits_is_not_cut() -> None:
    body = "\n".join(f"    step_{n}()" for n in range(40))
    text = "\n\n".join(f"def long_{n}():\n{body}" for n in range(6))
    for chunk in chunk_file(text, "python").chunks:
        assert chunk.text.lstrip().startswith("def long_")


def test_comments_and_decorators_stay_with_their_definition() -> None:
    filler = "\n".join(f"value_{n} = {n}" for n in range(130))
    chunks = chunk_file(f"{filler}\n\n# Says hello.\n@cached\ndef hello():\n    return 'hello'\n", "python").chunks
    holder = next(chunk for chunk in chunks if "def hello" in chunk.text)
    assert "# Says hello." in holder.text
    assert "@cached" in holder.text


def test_a_long_function_is_cut_and_its_pieces_know_their_name() -> None:
    body = "\n".join(f"    step_number_{n}(argument)" for n in range(300))
    chunks = chunk_file(f"class Outer:\n  def huge(self):\n{body}\n", "python").chunks
    assert len(chunks) > 3
    assert all(chunk.symbols[-1].name == "huge" for chunk in chunks)
    assert [chunk.defines for chunk in chunks] == [True] + [False] * (len(chunks) - 1)


def test_markdown_is_cut_at_headings() -> None:
    text = "# Title\n\n" + "word " * 250 + "\n\n## Part\n\n" + "more " * 250 + "\n```\n# no heading\n```\n"
    found = chunk_file(text, "markdown")
    assert [symbol.name for symbol in found.symbols] == ["Title", "Part"]
    assert found.chunks[-1].text.startswith("## Part")


@pytest.mark.parametrize(
    ("language", "text", "imports"),
    [
        ("python", "import os, sys as system\nfrom ..a.b import c\n", {"os", "sys", "..a.b"}),
        ("javascript", "import x from './x';\nconst y = require('../y');\nexport * from 'z'\n", {"./x", "../y", "z"}),
        ("go", 'package p\nimport (\n\t"fmt"\n\tx "a/b"\n)\n', {"fmt", "a/b"}),
        ("c", '#include <stdio.h>\n#include "a/b.h"\n', {"stdio.h", "a/b.h"}),
        ("rust", "use std::io::Read;\npub use crate::a;\n", {"std::io::Read", "crate::a"}),
        ("java", "import static a.b.C.d;\nimport a.b.*;\n", {"a.b.C.d", "a.b.*"}),
        ("csharp", "using System.Text;\n", {"System.Text"}),
    ],
)
def test_imports_are_found(language: str, text: str, imports: set[str]) -> None:
    assert set(chunk_file(text, language).imports) == imports


def test_deep_nesting_is_survived() -> None:
    found = chunk_file("[" * 3000 + "]" * 3000 + "\ndef after(): pass\n", "python")
    assert found.chunks
    deep = "\n".join(" " * n + f"def f{n}():" for n in range(300)) + "\n" + " " * 300 + "pass\n"
    assert chunk_file(deep, "python").symbols[-1].name == "f299"


def test_a_line_of_a_megabyte_is_survived() -> None:
    found = chunk_file("import " + "x" * 1_000_000 + "\n", "python")
    assert found.lines == 1
    assert len(found.chunks) == 1


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("x.TSX", "tsx"),
        ("Dockerfile.dev", "dockerfile"),
        ("CMakeLists.txt", "cmake"),
        ("picture.png", None),
        ("noextension", None),
        ("new\nline.py", "python"),
    ],
)
def test_language_by_name(path: str, language: str | None) -> None:
    assert language_of(path) == language
