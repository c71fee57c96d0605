"""Keys fetched from a server: rotated, unknown, missing, and from a server that is down, slow, or hostile."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from tests.integration.interfaces.samples import ClientFactory
from tests.support.web_server import Reply, Request, WebServer

from corral.client import Corral
from corral.errors import AdapterError, ConfigurationError, NotAuthenticated
from corral.interfaces.http import create_app
from corral.interfaces.identity import Authenticator, TokenStore
from corral.interfaces.jwts import JwtVerifier
from corral.interfaces.key_sets import RemoteKeySet

KEYS: Final[dict[str, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey]] = {
    "old": rsa.generate_private_key(65537, 2048),
    "new": rsa.generate_private_key(65537, 2048),
    "edwards": ed25519.Ed25519PrivateKey.generate(),
}
NEVER: Final = timedelta(0)


def published(*names: str) -> dict[str, Any]:
    """The public halves, as a platform publishes them."""
    keys = []
    for name in names:
        key = KEYS[name]
        if isinstance(key, rsa.RSAPrivateKey):
            public, algorithm = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()), "RS256"
        else:
            public, algorithm = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()), "EdDSA"
        keys.append({**json.loads(public), "kid": name, "alg": algorithm, "use": "sig"})
    return {"keys": keys}


def signed(name: str, **changes: Any) -> str:
    key = KEYS[name]
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": name})


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 600, **changes}


class Platform:
    """A platform's server of keys."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.reply = Reply(body=json.dumps(published("old")).encode())
        server.route("/jwks.json", self._answer)
        self.address = f"{server.url}/jwks.json"

    def _answer(self, _: Request) -> Reply:
        return self.reply

    def publish(self, *names: str) -> None:
        self.reply = Reply(body=json.dumps(published(*names)).encode())

    @property
    def asked(self) -> int:
        return len(self.server.requests)


@pytest.fixture
def platform() -> Iterator[Platform]:
    with WebServer() as server:
        yield Platform(server)


class Verifier(JwtVerifier):
    """One whose key set has other times."""

    def __init__(self, address: str, **times: timedelta) -> None:
        super().__init__(jwks=address)
        self._keys = RemoteKeySet(address, **times)


async def test_keys_are_fetched_once_and_kept(platform: Platform) -> None:
    platform.publish("old", "edwards")
    verifier = JwtVerifier(jwks=platform.address)

    users = await asyncio.gather(*(verifier.check(signed(name, sub=name)) for name in ("old", "edwards") * 10))

    assert {user.user_id for user in users} == {"old", "edwards"}
    assert platform.asked == 1


async def test_rotated_keys_are_found_and_withdrawn_ones_forgotten(platform: Platform) -> None:
    verifier = Verifier(platform.address, pause=NEVER)
    await verifier.check(signed("old"))
    platform.publish("new")

    assert (await verifier.check(signed("new"))).user_id == "ann"
    with pytest.raises(NotAuthenticated, match="kid"):
        await verifier.check(signed("old"))


async def test_invented_ids_cause_no_flood(platform: Platform) -> None:
    verifier = JwtVerifier(jwks=platform.address)
    await verifier.check(signed("old"))

    for number in range(50):
        forged = jwt.encode(claims(), KEYS["new"], algorithm="RS256", headers={"kid": f"x{number}"})
        with pytest.raises(NotAuthenticated, match="kid"):
            await verifier.check(forged)

    assert platform.asked == 1  # the first fetch was moments ago, so none of these asks again


async def test_server_that_is_down_is_not_asked_by_every_request(platform: Platform) -> None:
    platform.reply = Reply(status=500)
    verifier = JwtVerifier(jwks=platform.address)

    for _ in range(5):
        with pytest.raises(AdapterError, match="expected a JWK set") as caught:
            await verifier.check(signed("old"))
        assert (caught.value.reason, caught.value.retryable) == ("key_set_unreachable", True)

    assert platform.asked == 1


async def test_known_keys_outlive_an_outage_but_not_for_ever(platform: Platform) -> None:
    patient = Verifier(platform.address, lifespan=NEVER, pause=NEVER)
    strict = Verifier(platform.address, lifespan=NEVER, pause=NEVER, outlives=NEVER)
    await patient.check(signed("old"))
    platform.reply = Reply(drop=True)

    assert (await patient.check(signed("old"))).user_id == "ann"
    with pytest.raises(AdapterError):
        await strict.check(signed("old"))


async def test_outage_is_told_as_one_over_http(corral: Corral, platform: Platform, open_client: ClientFactory) -> None:
    """Not as 401: a client would throw away a good token."""
    platform.reply = Reply(status=503)
    app = create_app(
        corral,
        authenticator=Authenticator(
            TokenStore(corral.redis, prefix=corral.namespace), JwtVerifier(jwks=platform.address)
        ),
    )
    client = await open_client(token=signed("old"), of=app)

    answer = await client.get("/v1/me")

    assert answer.status_code == 503
    assert answer.json()["type"].endswith("identity-unavailable")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=json.dumps({**published("old"), "more": "x" * 300_000}).encode()),
        Reply(body=b"x" * 1_000_000),
        Reply(body=b"[" * 100_000),
        Reply(body=b"<html>"),
        Reply(body=b"[]"),
        Reply(body=b'{"keys": [1]}'),
        Reply(body=b'{"keys": []}'),
        Reply(body=json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "old"}]}).encode()),
        Reply(status=302, headers={"Location": "http://127.0.0.1:1/elsewhere"}),
    ],
    ids=["huge set", "huge", "deep", "a page", "a list", "no objects", "no keys", "a shared secret", "sent elsewhere"],
)
async def test_what_is_no_key_set_is_refused(platform: Platform, reply: Reply) -> None:
    platform.reply = reply

    with pytest.raises(AdapterError):
        await JwtVerifier(jwks=platform.address).check(signed("old"))


def by_hand(algorithm: str, secret: bytes) -> str:
    """A token that no library would make."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = json.dumps({"alg": algorithm, "typ": "JWT", "kid": "old"}).encode()
    message = part(head) + b"." + part(json.dumps(claims(scope="admin")).encode())
    signature = hmac.digest(secret, message, "sha256") if secret else b""
    return (message + b"." + part(signature)).decode()


def public_texts() -> list[bytes]:
    public = KEYS["old"].public_key()
    return [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.DER, serialization.Encoding.PEM)
    ]


@pytest.mark.parametrize("forged", [by_hand("none", b""), *(by_hand("HS256", text) for text in public_texts())],
                         ids=["unsigned", "hmac with the DER", "hmac with the PEM"])  # fmt: skip
async def test_token_doesn_t_choose_its_algorithm(platform: Platform, forged: str) -> None:
    with pytest.raises(NotAuthenticated):
        await JwtVerifier(jwks=platform.address).check(forged)


async def test_key_of_another_kind_doesn_t_fit(platform: Platform) -> None:
    """An Ed25519 signature under the id of an RSA key."""
    forged = jwt.encode(claims(), KEYS["edwards"], algorithm="EdDSA", headers={"kid": "old"})

    with pytest.raises(NotAuthenticated):
        await JwtVerifier(jwks=platform.address).check(forged)


@pytest.mark.parametrize("address", ["http://keys.example/jwks.json", "HTTP://10.0.0.1/k"])
def test_keys_from_another_machine_need_tls(address: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        JwtVerifier(jwks=address)
