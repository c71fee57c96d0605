from __future__ import annotations

import base64
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from corral.errors import ConfigurationError, NotAuthenticated, NotPermitted
from corral.interfaces.identity import CredentialKind, Principal, Scope, is_loopback
from corral.interfaces.jwts import JwtVerifier
from corral.interfaces.observability.telemetry import Telemetry

SECRET = "a secret of thirty-two bytes or more"


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 600, **changes}


def hs256(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256")


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    return {"rsa": rsa.generate_private_key(65537, 2048), "ed": ed25519.Ed25519PrivateKey.generate()}


@pytest.fixture
def key_set(keys: dict[str, Any], tmp_path: Path) -> Path:
    rsa_key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(keys["rsa"].public_key()))
    ed_key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(keys["ed"].public_key()))
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [
        {**rsa_key, "kid": "r", "alg": "RS256", "use": "sig"}, {**ed_key, "kid": "e", "alg": "EdDSA", "use": "sig"},
    ]}))  # fmt: skip
    return file


async def test_claims_become_a_principal() -> None:
    who = await JwtVerifier(secret=SECRET).check(hs256(scope="read manage nonsense", projects=["a"]))

    assert (who.user_id, who.kind) == ("ann", CredentialKind.JWT)
    assert who.scopes == {Scope.READ, Scope.MANAGE}
    assert who.projects == frozenset({"a"})
    assert (await JwtVerifier(secret=SECRET).check(hs256())).scopes == {Scope.READ, Scope.SUBMIT}


@pytest.mark.parametrize(("key", "algorithm", "kid"), [("rsa", "RS256", "r"), ("ed", "EdDSA", "e")])
async def test_keys_of_a_key_set(keys: dict[str, Any], key_set: Path, key: str, algorithm: str, kid: str) -> None:
    token = jwt.encode(claims(), keys[key], algorithm=algorithm, headers={"kid": kid})

    assert (await JwtVerifier(jwks=str(key_set)).check(token)).user_id == "ann"


async def test_public_key_is_no_hmac_secret(keys: dict[str, Any], key_set: Path) -> None:
    """The classic confusion: a token signed by HMAC with the public key's text."""
    public = keys["rsa"].public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": "r"}).encode()
    signed = part(head) + b"." + part(json.dumps(claims()).encode())
    forged = (signed + b"." + part(hmac.digest(public, signed, "sha256"))).decode()
    with pytest.raises(NotAuthenticated):
        await JwtVerifier(jwks=str(key_set)).check(forged)


@pytest.mark.parametrize(
    "token",
    [
        hs256(exp=int(time.time()) - 60),
        jwt.encode({"sub": "ann"}, SECRET, algorithm="HS256"),
        jwt.encode({"exp": 4_000_000_000}, SECRET, algorithm="HS256"),
        hs256(sub="with space"),
        hs256(nbf=int(time.time()) + 600),
        hs256(aud="another service"),
        jwt.encode(claims(), SECRET + "x", algorithm="HS256"),
        jwt.encode(claims(), "", algorithm="none"),
        "a.b.c",
        hs256()[:-3],
    ],
    # Names of their own: two of the tokens hold the time, and every test process must find the same tests.
    ids=[
        "expired",
        "without an end",
        "without a user",
        "a user with a space",
        "not valid yet",
        "for another service",
        "signed with another secret",
        "unsigned",
        "no token at all",
        "cut short",
    ],
)
async def test_bad_tokens_are_refused(token: str) -> None:
    with pytest.raises(NotAuthenticated):
        await JwtVerifier(secret=SECRET).check(token)


async def test_issuer_and_audience_must_fit() -> None:
    verifier = JwtVerifier(secret=SECRET, issuer="me", audience="corral")

    assert (await verifier.check(hs256(iss="me", aud="corral"))).user_id == "ann"
    for wrong in ({"iss": "you", "aud": "corral"}, {"iss": "me"}, {"aud": "corral"}, {}):
        with pytest.raises(NotAuthenticated):
            await verifier.check(hs256(**wrong))


@pytest.mark.parametrize("wrong", [{}, {"secret": SECRET, "jwks": "x"}, {"secret": "short"}, {"jwks": "/no/such/file"}])
def test_wrong_configuration_is_told_at_once(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        JwtVerifier(**wrong)


def principal(*scopes: Scope, projects: frozenset[str] | None = None) -> Principal:
    return Principal(user_id="ann", scopes=frozenset(scopes), kind=CredentialKind.TOKEN, projects=projects)


def test_scopes_imply_others() -> None:
    allowed = {
        scope: {wanted for wanted in Scope if principal(scope).allows(wanted)} for scope in Scope
    }  # fmt: skip
    assert allowed == {
        Scope.READ: {Scope.READ},
        Scope.SUBMIT: {Scope.SUBMIT},
        Scope.MANAGE: {Scope.MANAGE, Scope.READ},
        Scope.ADMIN: set(Scope),
    }


def test_payload_is_claimed_for_the_caller() -> None:
    assert principal(Scope.SUBMIT).claim({}) == "ann"
    assert principal(Scope.SUBMIT).claim({"user_id": "ann"}) == "ann"
    assert principal(Scope.ADMIN).claim({"userId": "bob"}) == "bob"
    for other in ({"userId": "bob"}, {"user_id": "bob"}, {"userId": "ann", "user_id": "bob"}, {"userId": None}):
        with pytest.raises(NotPermitted):
            principal(Scope.SUBMIT, Scope.MANAGE).claim(other)
    with pytest.raises(NotPermitted):
        principal(Scope.ADMIN, projects=frozenset({"a"})).claim({"projectId": "b"})


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil"])  # noqa: S104
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_grafana_dashboard_asks_only_for_metrics_that_exist() -> None:
    text = (Path(__file__).parents[3] / "deploy" / "grafana-dashboard.json").read_text()
    asked = {re.sub("_(bucket|total)$", "", name) for name in re.findall(r"corral_[a-z_]+", text)}
    known = {metric.name for metric in Telemetry().registry.collect()}
    depths = {"corral_jobs", "corral_oldest_waiting_seconds", "corral_queue_paused"}

    assert json.loads(text)["panels"]
    assert asked <= known | depths
