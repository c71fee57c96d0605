from __future__ import annotations

from typing import Any

import pytest

from corral.jobs.code_generation.edits import (
    DeleteFile,
    EditsMissedError,
    RenameFile,
    SearchReplace,
    WholeFile,
    plan_edits,
)


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
