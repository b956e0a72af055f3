"""Signed tokens: what is accepted, a corpus of bad ones, and the keys of an issuer that is there or is not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent_service.access import Access
from agent_service.auth import Credentials, KeySet, Principal
from agent_service.errors import CredentialsInvalid, CredentialsMissing, IdentityUnavailable
from tests.identity.conftest import Office
from tests.identity.issuer import Issuer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """An issuer; making its keys takes a while."""
    return Issuer()


@pytest.fixture
def office(tmp_path: Path, issuer: Issuer) -> Office:
    """The usual access file, with a principal that has a signed token."""
    office = Office(tmp_path, issuer)
    office.write(
        office.usual()
        + """
            [principal.lead]
            jwt = "lead@example.com"
            tenant = "blue"
            rpcs = ["@answer"]
        """
    )
    return office


@pytest.fixture
def access(office: Office) -> Access:
    """The rules of the file."""
    return Access(file=office.file)


async def shown(access: Access, token: str) -> Principal:
    """The principal of a bearer."""
    return await access.authenticate(Credentials(authorization=f"Bearer {token}", bearer=token))


def encoded(part: dict[str, Any]) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def by_hmac(issuer: Issuer, kid: str) -> str:
    """A token signed with the issuer's public key as if that were a secret."""
    pem = issuer.keys[kid].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{encoded(issuer.claims())}"
    signature = hmac.new(pem, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def swapped(token: str, **claims: Any) -> str:
    """A token whose claims were changed after it was signed."""
    header, body, signature = token.split(".")
    known = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{header}.{encoded({**known, **claims})}.{signature}"


def by_another(issuer: Issuer, **headers: Any) -> str:
    """A token signed by a key of somebody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(issuer.claims(), key, algorithm="ES256", headers={"kid": "ec", **headers})


def with_own_key(issuer: Issuer) -> str:
    """A token that brings the key to check it with."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return jwt.encode(issuer.claims(), key, algorithm="ES256", headers={"kid": "ec", "jwk": public})


BAD: dict[str, Callable[[Issuer], str]] = {
    "without a signature": lambda issuer: f"{encoded({'alg': 'none'})}.{encoded(issuer.claims())}.",
    "with an empty signature": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "signed with the public key as a secret": lambda issuer: by_hmac(issuer, "rsa"),
    "signed by another key of the same id": by_another,
    "signed by a key that it brings along": with_own_key,
    "of a key that is not published": lambda issuer: issuer.token(headers={"kid": "old"}),
    "with the algorithm of another key": lambda issuer: issuer.token(key="rsa", alg="RS512"),
    "changed after it was signed": lambda issuer: swapped(issuer.token(), groups=["agents-blue"]),
    "expired": lambda issuer: issuer.token(exp=time.time() - 1),
    "without an expiry": lambda issuer: issuer.token(exp=None),
    "with an expiry that is no number": lambda issuer: issuer.token(exp="tomorrow"),
    "for another service": lambda issuer: issuer.token(aud="another-service"),
    "for nobody": lambda issuer: issuer.token(aud=None),
    "of another issuer": lambda issuer: issuer.token(iss="https://sso.example.evil"),
    "of no issuer": lambda issuer: issuer.token(iss=None),
    "that does not hold yet": lambda issuer: issuer.token(nbf=time.time() + 600),
    "from the future": lambda issuer: issuer.token(iat=time.time() + 600),
    "that must be understood and is not": lambda issuer: issuer.token(headers={"crit": ["x"], "x": 1}),
    "without a name": lambda issuer: issuer.token(email=None),
    "with a name that is no text": lambda issuer: issuer.token(email=["ada@example.com"]),
    "with a name that nobody has verified": lambda issuer: issuer.token(email_verified=False),
    "with the name of another principal": lambda issuer: issuer.token(email="red"),
    "without a tenant": lambda issuer: issuer.token(groups=["staff"]),
    "with a tenant that cannot be one": lambda issuer: issuer.token(groups=["agents-../x"]),
    "with the name of the defaults as tenant": lambda issuer: issuer.token(groups=["agents-default"]),
    "with groups of another kind": lambda issuer: issuer.token(groups={"agents-red": True}),
    "of more bytes than a token may have": lambda issuer: issuer.token(padding="x" * 9000),
    "of parts that are no JSON": lambda issuer: "e30.e30.e30",
    "of deeply nested JSON": lambda issuer: f"{encoded({'alg': 'ES256'})}.{'W1tb' * 1500}.eA",
    "of three dots": lambda issuer: "..",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_and_nothing_is_told_of_it(access: Access, issuer: Issuer, name: str) -> None:
    token = BAD[name](issuer)
    with pytest.raises(CredentialsInvalid) as caught:
        await access.authenticate(Credentials(authorization=f"Bearer {token}", bearer=bearer_or_nothing(token)))
    assert "unknown, malformed or expired" in caught.value.message


def bearer_or_nothing(token: str) -> str:
    """The token as a door passes it on."""
    from agent_service.auth import bearer_of

    return bearer_of(f"Bearer {token}")


def test_the_corpus_is_large() -> None:
    assert len(BAD) >= 15


@pytest.mark.parametrize("key", ["ec", "rsa", "ed"])
async def test_a_good_token_is_who_it_says(access: Access, issuer: Issuer, key: str) -> None:
    found = await shown(access, issuer.token(key=key, jti="t-1"))
    assert (found.name, found.tenant, found.tenants, found.via) == ("ada@example.com", "red", (), "jwt")
    assert found.credential == "t-1"
    assert found.expires == pytest.approx(time.time() + 3600, abs=5)


async def test_a_token_of_several_tenants_has_to_name_one(access: Access, issuer: Issuer) -> None:
    found = await shown(access, issuer.token(groups=["agents-red", "agents-blue"]))
    assert (found.tenant, found.tenants) == ("", ("red", "blue"))


async def test_a_principal_of_the_file_has_what_the_file_says(access: Access, issuer: Issuer) -> None:
    lead = await shown(access, issuer.token(email="lead@example.com", groups=["agents-red"]))
    assert (lead.name, lead.tenant, lead.rpcs) == ("lead", "blue", frozenset({"RespondToInteraction"}))


async def test_a_token_is_remembered_until_it_expires_and_while_its_key_is_published(
    office: Office, access: Access, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token(exp=time.time() + 100)
    first = await shown(access, token)
    monkeypatch.setattr(jwt, "decode", None)
    assert await shown(access, token) is first, "its signature is not checked again"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    with pytest.raises(CredentialsInvalid):
        await shown(access, token)


# ------------------------------------------------------------------------------------------------------------ key sets


class Source:
    """Where a key set is read from; it counts."""

    def __init__(self, document: dict[str, Any] | None) -> None:
        """Have `document` to read; None: it cannot be read."""
        self.document = document
        self.reads = 0

    def __call__(self, url: str) -> bytes:
        """Read."""
        self.reads += 1
        if self.document is None:
            raise OSError("connection refused")
        return json.dumps(self.document).encode()


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def key_set(source: Source, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> KeySet:
    """A key set behind a URL."""
    monkeypatch.setattr("agent_service.auth.keysets.fetch", source)
    return KeySet("https://sso.example/jwks.json", max_stale=3600, clock=clock)


async def test_ten_thousand_unknown_keys_are_one_fetch_in_30_seconds(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, clock = Source(issuer.jwks), Clock()
    keys = key_set(source, clock, monkeypatch)
    assert await keys.key("ec") is not None
    for number in range(10_000):
        clock.now += 0.0029
        assert await keys.key(f"unknown-{number}") is None
    assert source.reads == 1, "29 s are over"
    clock.now += 1.1
    await asyncio.gather(*(keys.key(f"unknown-{number}") for number in range(100)))
    assert source.reads == 2


async def test_a_new_key_is_found_when_it_is_first_used(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    source, clock = Source({"keys": [issuer.public("ec")]}), Clock()
    keys = key_set(source, clock, monkeypatch)
    assert await keys.key("rsa") is None
    source.document = issuer.jwks
    clock.now += 31
    assert await keys.key("rsa") is not None


async def test_the_last_good_keys_count_until_they_are_stale(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    source, clock = Source(issuer.jwks), Clock()
    keys = key_set(source, clock, monkeypatch)
    assert await keys.key("ec") is not None
    source.document = None
    for _ in range(11):
        clock.now += 320
        assert await keys.key("ec") is not None
        await asyncio.sleep(0)
    clock.now += 320
    with pytest.raises(IdentityUnavailable) as caught:
        await keys.key("ec")
    assert caught.value.retry_after == 30
    source.document = issuer.jwks
    clock.now += 31
    assert await keys.key("ec") is not None


async def test_an_issuer_that_was_never_reached_is_no_fault_of_the_token(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = key_set(Source(None), Clock(), monkeypatch)
    for _ in range(2):
        with pytest.raises(IdentityUnavailable):
            await keys.key("ec")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"keys": {}},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw", "kid": "x"}]},
        {"keys": [{"kty": "RSA"}, "text", None]},
    ],
)
async def test_a_set_without_a_key_that_checks_signatures_is_not_taken(
    document: dict[str, Any], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IdentityUnavailable):
        await key_set(Source(document), Clock(), monkeypatch).key("x")


async def test_a_weak_key_checks_nothing(issuer: Issuer, office: Office, access: Access) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key()))
    (office.directory / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "weak", "alg": "RS256"}]}))
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = jwt.encode(issuer.claims(), weak, algorithm="RS256", headers={"kid": "weak"})
    with pytest.raises(CredentialsInvalid):
        await shown(access, token)


async def test_nothing_shown_is_told_what_is_accepted(access: Access) -> None:
    with pytest.raises(CredentialsMissing) as caught:
        await access.authenticate(Credentials())
    assert "authorization: Bearer TOKEN" in caught.value.message
    assert "Bearer JWT" in caught.value.message
