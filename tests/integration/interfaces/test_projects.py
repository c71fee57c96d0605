"""Projects over HTTP and on the dashboard's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.port import IndexName
from corral.client import Corral
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.source import FolderSource
from corral.projects import Project


def _lib(**more: Any) -> Project:
    return Project.model_validate({"id": "lib", "repository": "/srv/lib.git", **more})


async def test_submodules_are_registered_told_and_shown(client: Client, corral: Corral) -> None:
    await corral.parts.projects.add(_lib())
    body = {"id": "shop", "repository": "/srv/shop.git", "submodules": ["lib"]}

    made = await client.post("/v1/projects", json=body)

    assert (made.status_code, made.json()["submodules"]) == (201, ["lib"])
    assert (await client.get("/v1/projects/shop")).json()["submodules"] == ["lib"]
    assert (await corral.parts.projects.get("shop")).submodules == ("lib",)
    assert "with submodules lib" in (await client.get("/dashboard/projects")).text


@pytest.mark.parametrize("submodule", ["nowhere", "shop", "x" * 65, "../etc"])
async def test_a_submodule_that_is_none_is_refused(client: Client, corral: Corral, submodule: str) -> None:
    body = {"id": "shop", "repository": "/srv/shop.git", "submodules": [submodule]}
    assert (await client.post("/v1/projects", json=body)).status_code == 422
    assert await corral.parts.projects.list() == []


async def test_nobody_opens_a_project_by_calling_it_a_submodule(
    corral: Corral, open_client: ClientFactory, token_for: TokenFactory
) -> None:
    await corral.parts.projects.add(_lib())
    ann = await open_client(token=await token_for("ann", "manage", projects=["shop"]))

    def body(submodule: str) -> dict[str, Any]:
        return {"id": "shop", "repository": "/srv/shop.git", "submodules": [submodule]}

    theirs = await ann.post("/v1/projects", json=body("lib"))
    missing = await ann.post("/v1/projects", json=body("nowhere"))

    assert theirs.status_code == missing.status_code == 422
    assert theirs.json()["detail"].replace("lib", "nowhere") == missing.json()["detail"]
    assert [one.id for one in await corral.parts.projects.list()] == ["lib"]
    both = await open_client(token=await token_for("bea", "manage", projects=["shop", "lib"]))
    assert (await both.post("/v1/projects", json=body("lib"))).status_code == 201


async def test_the_openapi_document_tells_of_submodules(client: Client) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["AddProject"]["properties"]["submodules"]["items"]["maxLength"] == 64
    assert "submodules" in schemas["ProjectView"]["required"]


async def test_a_project_takes_its_indexes_along(client: Client, corral: Corral) -> None:
    await corral.parts.projects.add(_lib())
    store = corral.parts.index_store
    for branch in ("", "feature"):
        name = IndexName("lib", branch)
        with store.writer(name, identity="one", embedder="none", dimension=4) as writer:
            writer.publish(commit="c")
    assert store.branches("lib") == ["", "feature"]

    assert (await client.delete("/v1/projects/lib")).status_code == 204

    assert store.branches("lib") == []


async def test_what_is_around_a_file_is_told(client: Client, corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/tax.py").write_text("import json\n\n\ndef sales_tax(amount):\n    return amount * 0.19\n")
    (tmp_path / "shop/till.py").write_text("from shop import tax\n\n\ndef pay():\n    return tax.sales_tax(3)\n")
    (tmp_path / "wide.py").write_text("".join(f"def duty_{number}(): pass\n" for number in range(50)))
    await corral.parts.projects.add(_lib())
    build(FolderSource(tmp_path), corral.parts.index_store, IndexName("lib"), StaticEmbedder())
    path = "/v1/projects/lib/neighbourhood"

    around = await client.get(path, params={"path": "shop/tax.py"})

    assert around.status_code == 200
    told = around.json()
    assert told["symbols"] == [{"name": "sales_tax", "kind": "function", "startLine": 4, "endLine": 5, "parent": ""}]
    assert (told["imports"], told["importers"], told["importedFiles"]) == (["json"], ["shop/till.py"], [])
    assert [(hit["path"], hit["why"]) for hit in told["callers"]] == [("shop/till.py", "uses sales_tax")]
    assert (told["path"], told["tests"], told["leftOut"]) == ("shop/tax.py", [], 0)
    wide = (await client.get(path, params={"path": "wide.py", "maxTokens": 100})).json()
    assert len(wide["symbols"]) + wide["leftOut"] == 50 > len(wide["symbols"])
    missing = await client.get(path, params={"path": "tax.py"})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:corral:problem:unknown-file")
    assert "there is shop/tax.py" in missing.json()["detail"]
    assert (await client.get(path, params={"path": "x", "maxTokens": 1})).status_code == 422
