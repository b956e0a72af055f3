"""Every kind of credential behaves alike: it knows its own, and leaves all others to the next kind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_service.access import Access, local_rules
from agent_service.auth import (
    Authenticator,
    Certificates,
    Credentials,
    Kind,
    Principal,
    Sockets,
    Tokens,
    digest_of,
    name_of,
    names_of,
)
from agent_service.errors import CredentialsInvalid, CredentialsMissing, RequestError, RpcNotAllowed
from tests.identity.conftest import Office

TOKEN, OTHER = "ast_" + "t" * 43, "ast_" + "o" * 43


def sent(token: str) -> Credentials:
    """A bearer token."""
    return Credentials(authorization=f"Bearer {token}", bearer=token)


def certified(*uris: str, hosts: tuple[str, ...] = (), **more: Any) -> Credentials:
    """A certificate."""
    return Credentials(names=names_of(uris, hosts), serial="1f", **more)


@dataclass
class Example:
    """A kind that knows one principal, and credentials that are and are not that principal's."""

    kind: Kind
    right: Credentials
    wrong: Credentials


ME = Principal(name="me", tenant="red")
EXAMPLES = {
    "token": Example(Tokens({digest_of(TOKEN): ME}), sent(TOKEN), sent(OTHER)),
    "certificate": Example(
        Certificates({name_of("spiffe://x/me"): ME, name_of("me.example.com"): ME}),
        certified("spiffe://x/me", "spiffe://x/other", hosts=("ME.example.com",)),
        certified("me.example.com", hosts=("spiffe://x/me",)),
    ),
    "unix socket": Example(Sockets({"/run/me.sock": ME}), Credentials(socket="/run/me.sock"), Credentials(socket="/x")),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    """Each kind in turn."""
    return EXAMPLES[request.param]


async def test_a_kind_knows_its_own(example: Example) -> None:
    found = await example.kind.principal(example.right)
    assert found is not None
    assert (found.name, found.tenant) == ("me", "red")


async def test_a_kind_knows_nobody_else(example: Example) -> None:
    others = [each.right for each in EXAMPLES.values() if each is not example]
    for credentials in (example.wrong, Credentials(), *others):
        assert await example.kind.principal(credentials) is None


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer x", "Basic eDp5", f"Bearer {TOKEN} {TOKEN}", "-"])
async def test_what_is_shown_and_wrong_is_not_passed_over_for_something_weaker(
    example: Example, authorization: str
) -> None:
    if example.right.bearer:
        return
    shown = Credentials(authorization, "", example.right.names, "1f", None, example.right.socket)
    assert await example.kind.principal(shown) is None


async def test_a_certificate_that_expires_on_an_open_connection_counts_no_more() -> None:
    authenticator = Authenticator([("certificate", EXAMPLES["certificate"].kind)], "a certificate")
    kept = certified("spiffe://x/me", expires=time.time() + 60)
    assert (await authenticator.authenticate(kept)).expires == kept.expires
    with pytest.raises(CredentialsInvalid):
        await authenticator.authenticate(certified("spiffe://x/me", expires=time.time() - 1))


async def test_without_an_access_file_there_is_one_token() -> None:
    access = Access(local_rules(TOKEN, "the token"))
    found = await access.authenticate(sent(TOKEN))
    assert (found.name, found.tenant, found.rpcs, found.via) == ("local", "", None, "local token")
    assert found.credential == digest_of(TOKEN)[7:13]
    for credentials, error in ((sent(OTHER), CredentialsInvalid), (Credentials(), CredentialsMissing)):
        with pytest.raises(error):
            await access.authenticate(credentials)
    with pytest.raises(CredentialsMissing, match="the token"):
        await access.authenticate(Credentials(socket="/run/a.sock"))


@pytest.fixture
def rules(tmp_path: Path) -> Access:
    """Tenants red and blue, others by what `[tenant.default]` says."""
    office = Office(tmp_path)
    office.write("[tenant.red]\n[tenant.blue]")
    return Access(file=office.file)


@pytest.mark.parametrize(
    ("principal", "wanted", "tenant"),
    [
        (Principal("one", tenant="red"), "", "red"),
        (Principal("one", tenant="red"), "red", "red"),
        (Principal("one", tenant="red"), "blue", None),
        (Principal("two", tenants=("red", "blue")), "blue", "blue"),
        (Principal("two", tenants=("red", "blue")), "", None),
        (Principal("two", tenants=("red", "blue")), "green", None),
        (Principal("home", tenant="red", tenants=("red", "blue")), "", "red"),
        (Principal("any", tenants=("*",)), "green", "green"),
        (Principal("any", tenants=("*",)), "", ""),
        (Principal("any", tenants=("*",)), "../red", None),
        (Principal("any", tenants=("*",)), "default", None),
        (Principal("none"), "", ""),
        (Principal("none"), "red", None),
    ],
)
def test_a_call_is_about_a_tenant_that_its_principal_may_name(
    rules: Access, principal: Principal, wanted: str, tenant: str | None
) -> None:
    if tenant is not None:
        assert rules.tenant_of(principal, wanted) == tenant
        return
    with pytest.raises(RpcNotAllowed):
        rules.tenant_of(principal, wanted)


def test_tenants_that_are_not_in_the_file_can_be_refused(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write('unknown_tenants = "deny"\n[tenant.red]')
    access = Access(file=office.file)
    assert access.tenant_of(Principal("any", tenants=("*",)), "red") == "red"
    with pytest.raises(RequestError):
        access.tenant_of(Principal("any", tenants=("*",)), "green")
