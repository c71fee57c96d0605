"""``corral search``, over an index that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.cli.conftest import Cli
from tests.support.repositories import Repository

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.factory import make_index_store
from corral.adapters.index.port import IndexName
from corral.interfaces.cli.output import ExitCode
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.source import CommitSource
from corral.settings import Settings

FILES = {
    "src/tax.py": "def sales_tax(amount):\n    return amount * 0.19\n",
    "src/tax.go": "package tax\n\nfunc SalesTax(amount int) int { return amount }\n",
    "tests/test_tax.py": "class TestTax:\n    def test_tax(self):\n        assert sales_tax(1)\n",
}


@pytest.fixture
def project(cli: Cli, tmp_path: Path) -> str:
    repository = Repository(tmp_path / "forge", FILES)
    name = f"s-{tmp_path.name[-40:]}"
    assert cli("project", "add", name, str(repository.bare)).exit_code == 0
    later = repository.commit({"src/late.py": "def late_tax(): pass\n"}, branch="feature/x")
    for branch, commit in (("", repository.tip()), ("feature/x", later)):
        source = CommitSource(repository.bare, commit)
        build(source, make_index_store(Settings()), IndexName(name, branch), StaticEmbedder())
    return name


def test_hits_are_shown_with_their_reason_and_filtered(
    cli: Cli, documents: Callable[..., list[Any]], project: str
) -> None:
    def found(*options: str) -> list[str]:
        return [hit["path"] for hit in documents("search", project, "tax", *options)]

    assert sorted(found()) == sorted(FILES)
    assert found("--language", "Go") == ["src/tax.go"]
    assert sorted(found("-l", "go", "-l", "python", "--path", "src/")) == ["src/tax.go", "src/tax.py"]
    assert found("--path", "*.go") == ["src/tax.go"]
    assert found("--kind", "method") == ["tests/test_tax.py"]
    assert len(found("--limit", "1")) == 1
    assert "src/late.py" in found("--branch", "feature/x")
    assert sorted(found("--branch", "never-indexed")) == sorted(FILES)

    shown = cli("search", project, "sales_tax", "--path", "src/tax.py")
    assert shown.exit_code == 0
    assert "src/tax.py:1-2 sales_tax defines sales_tax" in shown.stdout
    assert "return amount" in shown.stdout
    nothing = cli("search", project, "tax", "--language", "cobol")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing found: no language here is called cobol; there are " in nothing.stderr
    assert "no kind here is called klass" in cli("search", project, "tax", "--kind", "klass").stderr
    assert "nothing found\n" in cli("search", project, "tax", "--path", "nowhere/").stderr
    empty = cli("search", project, " ")
    assert empty.exit_code == ExitCode.USAGE
    assert "expected some text to look for" in empty.stderr


def test_a_project_without_an_index_is_told_what_to_do(cli: Cli, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "forge")
    name = f"n-{tmp_path.name[-40:]}"
    assert cli("project", "add", name, str(repository.bare)).exit_code == 0
    refused = cli("search", name, "tax")
    assert refused.exit_code != 0
    assert f"run `corral index {name}`" in refused.stderr
