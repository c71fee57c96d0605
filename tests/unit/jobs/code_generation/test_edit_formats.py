from __future__ import annotations

import pytest

from corral.jobs.code_generation.edit_formats import FormatError, holds_edits, parse_edits
from corral.jobs.code_generation.edits import DeleteFile, RenameFile, SearchReplace, WholeFile
from corral.jobs.code_generation.payload import EditFormat

BLOCK = """\
Here is the change.

src/app.py
```python
<<<<<<< SEARCH
a = 1
=======
a = 2
>>>>>>> REPLACE
<<<<<<< SEARCH
b = 1
=======
b = 2
>>>>>>> REPLACE
```
"""


def test_search_replace_blocks_are_read_with_their_path() -> None:
    assert parse_edits(BLOCK, EditFormat.SEARCH_REPLACE) == [
        SearchReplace(path="src/app.py", search="a = 1\n", replace="a = 2\n"),
        SearchReplace(path="src/app.py", search="b = 1\n", replace="b = 2\n"),
    ]
    assert holds_edits(BLOCK) is EditFormat.SEARCH_REPLACE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "no file path"),
        ("a.py\n<<<<<<< SEARCH\na\n=======\nb\n", "does not end"),
        ("a.py\n<<<<<<< SEARCH\na\n>>>>>>> REPLACE\n", "no ======="),
        ("a.rst\n<<<<<<< SEARCH\nTitle\n=======\na\n=======\nb\n>>>>>>> REPLACE\n", "several lines"),
    ],
)
def test_broken_blocks_say_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_edits(text, EditFormat.SEARCH_REPLACE)


DIFF = """\
```diff
diff --git a/README.md b/README.md
--- a/README.md
+++ b/README.md
@@ -100,4 +200,5 @@ wrong numbers
 ```sh
-make
+make all
 ```

 more
--- /dev/null
+++ b/new.py
@@ -0,0 +1,2 @@
+x = 1
+y = 2
--- a/old.py
+++ /dev/null
@@ -1 +0,0 @@
-gone
diff --git a/a.py b/b.py
rename from a.py
rename to b.py
```
"""


def test_unified_diffs_are_read_by_their_lines_and_not_by_their_numbers() -> None:
    assert parse_edits(DIFF, EditFormat.UNIFIED_DIFF) == [
        SearchReplace(path="README.md", search="```sh\nmake\n```\n\nmore\n", replace="```sh\nmake all\n```\n\nmore\n"),
        WholeFile(path="new.py", content="x = 1\ny = 2\n"),
        DeleteFile(path="old.py"),
        RenameFile(path="a.py", to="b.py"),
    ]
    assert holds_edits(DIFF) is EditFormat.UNIFIED_DIFF


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("GIT binary patch\nliteral 3\n", "binary"),
        ("--- a/x.py\n+++ b/x.py\n@@ -1 +1,2 @@\n+new\n", "no line of context"),
        ("@@ -1 +1 @@\n-a\n+b\n", "names? its file|name its file"),
    ],
)
def test_broken_diffs_say_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_edits(text, EditFormat.UNIFIED_DIFF)


def test_whole_files_are_read_with_the_path_above_or_in_the_fence() -> None:
    text = "`src/a.py`:\n```python\na = 1\n```\n\n```python src/b.py\nb = 1\n```\n"
    assert parse_edits(text, EditFormat.WHOLE_FILE) == [
        WholeFile(path="src/a.py", content="a = 1\n"),
        WholeFile(path="src/b.py", content="b = 1\n"),
    ]
    with pytest.raises(FormatError, match="not closed"):
        parse_edits("src/a.py\n```python\na = 1\n", EditFormat.WHOLE_FILE)
