from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from tests.integration.interfaces.samples import Client, ClientFactory, TokenFactory, declare_samples

from corral.client import Corral
from corral.interfaces.http import create_app
from corral.interfaces.identity import TokenStore
from corral.settings import Settings
from corral.testing import EmbeddedServer


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
async def corral(server: EmbeddedServer) -> AsyncIterator[Corral]:
    """A Corral over an empty server: tokens and limits have fixed keys, which tests must not share."""
    settings = Settings(request_limit=0, _env_file=None)
    async with Corral(server.url, prefix=f"test-{secrets.token_hex(4)}", settings=settings) as connected:
        await connected.redis.flushdb()
        declare_samples(connected)
        yield connected


@pytest.fixture
async def app(corral: Corral) -> FastAPI:
    return create_app(corral)


@pytest.fixture
async def open_client(app: FastAPI) -> AsyncIterator[ClientFactory]:
    """Makes clients of the app: ``await open_client(token=…, peer=…)``."""
    async with AsyncExitStack() as stack:

        async def make(
            *, token: str | None = None, peer: str = "127.0.0.1", of: FastAPI = app, base: str = "http://localhost"
        ) -> Client:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            transport = httpx.ASGITransport(of, client=(peer, 5), raise_app_exceptions=False)
            return await stack.enter_async_context(Client(transport=transport, base_url=base, headers=headers))

        yield make


@pytest.fixture
async def client(open_client: ClientFactory) -> Client:
    """The local user, without a token."""
    return await open_client()


@pytest.fixture
async def token_for(corral: Corral) -> TokenFactory:
    async def make(user: str, *scopes: str, **options: object) -> str:
        token, _ = await TokenStore(corral.redis, prefix=corral.namespace).create(user, scopes, **options)  # type: ignore[arg-type]
        return token

    return make
