"""Projects over HTTP and on the dashboard's page."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory

from corral.adapters.index.port import IndexName
from corral.client import Corral
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
