from __future__ import annotations

import contextlib
from typing import Any

import pytest

from corral.jobs.code_generation.edit_formats import parse_edits
from corral.jobs.code_generation.edits import (
    DeleteFile,
    EditsMissedError,
    RenameFile,
    SearchReplace,
    WholeFile,
    plan_edits,
)
from corral.jobs.code_generation.payload import EditFormat


def reader(files: dict[str, bytes]) -> Any:
    return files.get


def test_all_edits_apply_or_none_does() -> None:
    files = {"a.py": b"x = 1\n", "b.py": b"y = 2\n"}
    edits = [
        SearchReplace(path="a.py", search="x = 1", replace="x = 3"),
        SearchReplace(path="b.py", search="nowhere", replace="y = 3"),
    ]
    with pytest.raises(EditsMissedError) as caught:
        plan_edits(edits, reader(files))
    assert [miss.path for miss in caught.value.misses] == ["b.py"]
    assert files == {"a.py": b"x = 1\n", "b.py": b"y = 2\n"}


def test_later_edits_see_what_earlier_ones_did() -> None:
    edits = [
        SearchReplace(path="a.py", search="x = 1", replace="x = 2"),
        SearchReplace(path="a.py", search="x = 2", replace="x = 3"),
    ]
    assert plan_edits(edits, reader({"a.py": b"x = 1\n"})).files == {"a.py": b"x = 3\n"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\r\nb\r\nc\r\n", b"a\r\nB\r\nnew\r\nc\r\n"),
        (b"a\nb\r\nc\n", b"a\nB\nnew\nc\n"),
        (b"a\nb\nc", b"a\nB\nnew\nc"),
        (b"\xef\xbb\xbfa\nb\nc\n", b"\xef\xbb\xbfa\nB\nnew\nc\n"),
        ("ä\nb\nc\n".encode("latin-1"), "ä\nB\nnew\nc\n".encode("latin-1")),
        ("\ufeffa\nb\nc\n".encode("utf-16-le"), "\ufeffa\nB\nnew\nc\n".encode("utf-16-le")),
    ],
)
def test_what_is_not_meant_to_change_stays(before: bytes, after: bytes) -> None:
    plan = plan_edits([SearchReplace(path="f", search="b", replace="B\nnew")], reader({"f": before}))
    assert plan.files["f"] == after


def test_the_last_line_without_newline_can_be_replaced_and_stays_without() -> None:
    plan = plan_edits([SearchReplace(path="f", search="c", replace="C\nD")], reader({"f": b"a\nc"}))
    assert plan.files["f"] == b"a\nC\nD"


def test_characters_that_the_encoding_does_not_have_are_refused() -> None:
    edit = SearchReplace(path="f", search="b", replace="b = '→'")
    with pytest.raises(EditsMissedError, match="latin-1"):
        plan_edits([edit], reader({"f": "ä\nb\n".encode("latin-1")}))


def test_binary_files_are_refused() -> None:
    with pytest.raises(EditsMissedError, match="binary"):
        plan_edits([SearchReplace(path="f", search="b", replace="c")], reader({"f": b"b\n\x00\x01"}))
    with pytest.raises(EditsMissedError, match="binary"):
        plan_edits([WholeFile(path="f", content="c\n")], reader({"f": b"b\n\x00\x01"}))


def test_files_are_created_deleted_and_renamed() -> None:
    files = {"old.py": b"x\n", "gone.py": b"y\n"}
    plan = plan_edits(
        [
            SearchReplace(path="new.py", search="", replace="z = 1"),
            DeleteFile(path="gone.py"),
            RenameFile(path="old.py", to="kept.py"),
        ],
        reader(files),
    )
    assert plan.files == {"new.py": b"z = 1\n", "gone.py": None, "old.py": None, "kept.py": b"x\n"}
    assert [edit.how for edit in plan.applied] == ["created", "deleted", "renamed"]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (DeleteFile(path="none.py"), "no such file"),
        (RenameFile(path="none.py", to="x.py"), "no such file"),
        (RenameFile(path="a.py", to="b.py"), "exists already"),
        (SearchReplace(path="none.py", search="x", replace="y"), "leave the search text empty"),
        (SearchReplace(path="a.py", search="", replace="y"), "search text is empty"),
        (WholeFile(path="a.py", content="x\n# ... rest of the code unchanged\n"), "left out"),
    ],
)
def test_edits_that_make_no_sense_are_refused(edit: Any, why: str) -> None:
    with pytest.raises(EditsMissedError, match=why):
        plan_edits([edit], reader({"a.py": b"x = 1\n", "b.py": b"y = 1\n"}))


def test_no_edit_at_all_is_a_miss() -> None:
    with pytest.raises(EditsMissedError, match="no edit"):
        plan_edits([], reader({}))


def test_a_form_feed_is_no_end_of_a_line() -> None:
    """Old Python sources are full of them, and a diff of such a file holds them as lines of their own."""
    before = b"a = 1\n\x0c\nb = 'x\xe2\x80\xa8y'\nc = 3\n"
    diff = "--- a/f\n+++ b/f\n@@ @@\n a = 1\n \x0c\n-b = 'x\u2028y'\n+b = 'x\u2028z'\n+\x0c\n c = 3\n"
    plan = plan_edits(parse_edits(diff, EditFormat.UNIFIED_DIFF), reader({"f": before}))
    assert plan.files["f"] == b"a = 1\n\x0c\nb = 'x\xe2\x80\xa8z'\n\x0c\nc = 3\n"


@pytest.mark.parametrize(
    ("edit", "file"),
    [
        (SearchReplace(path="f", search="0\n" * 390 + "x", replace="y"), b"0\n" * 30_000),
        (SearchReplace(path="f", search="end", replace="END"), b"0\n" * 300_000 + b"end\n"),
        (SearchReplace(path="f", search="a\n" * 5000, replace="a\nb\n" * 5000), b" a\n" * 5000),
        (SearchReplace(path="f", search="a = 1\nb = 2\nc = " + "1, 2, " * 50_000, replace="x"),
         b"a = 1\nb = 2\nc = " + b"1, 3, " * 50_000),
        (WholeFile(path="f", content="0\n1\n" * 40_000), b"0\n0\r\n" * 40_000),
    ],
    ids=["alike", "long", "much", "wide", "mixed"],
)  # fmt: skip
def test_no_file_and_no_edit_stalls_the_worker(edit: Any, file: bytes) -> None:
    """Each took minutes or hours when every pair of lines was compared; the test run's time-out would end it."""
    with contextlib.suppress(EditsMissedError):
        plan_edits([edit], reader({"f": file}))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_keeps_its_endings_and_its_mark(encoding: str) -> None:
    before = "\ufeffa\r\nb\r\nc".encode(encoding)
    plan = plan_edits([SearchReplace(path="f", search="b", replace="ä\nB")], reader({"f": before}))
    assert plan.files["f"] == "\ufeffa\r\nä\r\nB\r\nc".encode(encoding)


def test_utf_16_without_a_mark_and_utf_32_are_no_text_that_could_be_edited() -> None:
    for data in ("abc\n".encode("utf-16-le"), "\ufeffabc\n".encode("utf-32-le")):
        with pytest.raises(EditsMissedError, match="binary"):
            plan_edits([SearchReplace(path="f", search="abc", replace="x")], reader({"f": data}))
