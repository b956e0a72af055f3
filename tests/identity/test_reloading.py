"""The access file is read again when it changes: new rules hold for the next call and for those that are open."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.access import Access, AccessFileInvalid
from tests.conftest import Service, start_service
from tests.identity.conftest import Office
from tests.rpc import Carrying, Refusal, refused, taken_apart


@asynccontextmanager
async def serving(office: Office) -> AsyncIterator[tuple[Service, Callable[[str], Any]]]:
    """A service with the office's access file, and stubs of it by token."""
    office.write(office.usual())
    async with start_service(office.directory / "data", access=office.file) as service:
        bare: Any = service.channel

        def stub(token: str) -> Any:
            return agent_pb2_grpc.AgentServiceStub(Carrying(bare, token))  # type: ignore[arg-type]

        yield service, stub


def without(text: str, principal: str) -> str:
    """An access file without one of its principals."""
    before, _, rest = text.partition(f"[principal.{principal}]")
    return before + "[" + rest.partition("[")[2]


async def ended(watch: Any) -> Refusal:
    """How a watch ends that was under way."""
    while True:
        try:
            if await watch.read() is grpc.aio.EOF:
                raise AssertionError("the watch ended without an error")
        except grpc.aio.AioRpcError as error:
            return taken_apart(error)


async def test_who_is_taken_out_is_refused_and_its_open_calls_end(tmp_path: Path) -> None:
    office = Office(tmp_path)
    async with serving(office) as (service, stub):
        red, blue = stub(office.token_of("red")), stub(office.token_of("blue"))
        mine, other = [(await each.Execute(pb.ExecuteRequest(prompt="say: hi"))).session_id for each in (red, blue)]
        watch = red.WatchSession(pb.WatchSessionRequest(session_id=mine, follow=True))
        kept = blue.WatchSession(pb.WatchSessionRequest(session_id=other, follow=True))
        for each in (watch, kept):
            assert (await each.read()).HasField("started")
        office.write(without(office.usual(), "red"))
        begun = time.monotonic()
        refusal = await ended(watch)  # the service sees the file by itself
        assert time.monotonic() - begun < 10
        assert (refusal.reason, refusal.code.name) == ("CREDENTIALS_INVALID", "UNAUTHENTICATED")
        assert (await refused(red.GetStatus(pb.GetStatusRequest(session_id=mine)))).reason == "CREDENTIALS_INVALID"
        assert not kept.done()
        office.write(office.usual())
        await service.running.access.reload()
        again = red.WatchSession(pb.WatchSessionRequest(session_id=mine, after_sequence=1))
        assert (await again.read()).HasField("started"), "the cursor is good still"
        kept.cancel()


async def test_a_call_that_is_no_longer_allowed_ends_and_others_of_its_principal_go_on(tmp_path: Path) -> None:
    office = Office(tmp_path)
    async with serving(office) as (service, stub):
        red = stub(office.token_of("red"))
        session_id = (await red.Execute(pb.ExecuteRequest(prompt="say: hi"))).session_id
        watch = red.WatchSession(pb.WatchSessionRequest(session_id=session_id, follow=True))
        assert (await watch.read()).HasField("started")
        request = pb.GetStatusRequest(session_id=session_id, wait={"seconds": 60})
        request.after_sequence = (await red.GetStatus(request)).session.last_sequence
        request.wait_for = pb.WAIT_FOR_NEW_EVENT
        long = red.GetStatus(request)
        await red.ListSessions(pb.ListSessionsRequest())  # by then the service has begun to wait
        office.write(office.usual().replace('tenant = "red"', 'tenant = "red"\nrpcs = ["WatchSession"]', 1))
        await service.running.access.reload()
        assert (await refused(long)).reason == "RPC_NOT_ALLOWED"
        assert (await refused(red.GetStatus(request))).reason == "RPC_NOT_ALLOWED"
        assert not watch.done()
        watch.cancel()


async def test_a_watch_ends_when_its_token_expires(tmp_path: Path) -> None:
    office = Office(tmp_path)
    async with serving(office) as (_, stub):
        expires = time.time() + 1.5
        ada = stub(office.issuer.token(exp=expires))
        session_id = (await ada.Execute(pb.ExecuteRequest(prompt="say: hi"))).session_id
        watch = ada.WatchSession(pb.WatchSessionRequest(session_id=session_id, follow=True))
        assert (await watch.read()).HasField("started")
        refusal = await ended(watch)
        assert refusal.reason == "CREDENTIALS_INVALID"
        assert time.time() >= expires
        assert (await refused(ada.ListSessions(pb.ListSessionsRequest()))).reason == "CREDENTIALS_INVALID"


async def test_a_file_with_an_error_changes_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(tmp_path)
    office.write(office.usual())
    access = Access(file=office.file)
    version, heard = access.version, []
    access.listen(lambda: heard.append(access.version))
    office.write(office.usual() + "\n[tenant.red]\nmodles = []")
    await access.reload()
    assert (access.version, heard) == (version, [])
    assert "tenant.red.modles" in caplog.text
    assert "stays in force" in caplog.text
    office.file.unlink()
    await access.reload()
    assert access.version == version
    office.write(office.usual() + "\n[tenant.red]\nmodels = []")
    with caplog.at_level(logging.INFO):
        await access.reload()
    assert heard == [access.version] != [version]
    assert access.grant("red").models == ()


async def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    office = Office(tmp_path)
    for name, model in (("a", "x"), ("b", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "access.toml").write_text(f'[tenant.red]\nmodels = ["{model}"]')
    (tmp_path / "now").symlink_to("a")
    office.file.symlink_to(Path("now") / "access.toml")
    access = Access(file=office.file)
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").replace(tmp_path / "now")
    await access.reload()
    assert access.grant("red").models == ("y",)


TOKEN = "sha256:" + "0" * 64
FAULTS = {
    "principal.ci.tokn": f'[principal.ci]\ntokn = "{TOKEN}"',
    "principal.ci: needs a credential": '[principal.ci]\ntenant = "red"',
    "sha256: and 64 hexadecimal digits": '[principal.ci]\ntoken = "ast_secret"',
    "principal.b.token: principal.a has the same": f'[principal.a]\ntoken="{TOKEN}"\n[principal.b]\ntoken="{TOKEN}"',
    "'@wirte' is no RPC and no group": f'[principal.ci]\ntoken = "{TOKEN}"\nrpcs = ["@wirte"]',
    "'root' is no right": f'[principal.ci]\ntoken = "{TOKEN}"\nrights = ["root"]',
    "there is no [tenant.red]": f'unknown_tenants = "deny"\n[principal.ci]\ntoken = "{TOKEN}"\ntenant = "red"',
    "default and operator are reserved": f'[principal.ci]\ntoken = "{TOKEN}"\ntenant = "operator"',
    "not its subject": '[principal.ci]\ncertificate = "CN=ci"',
    "the absolute path of a socket": '[principal.ci]\nunix = "ci.sock"',
    "there is no [jwt.NAME]": '[principal.ci]\njwt = "ada@example.com"',
    "must be an https URL": '[jwt.a]\nissuer = "x"\naudience = "y"\njwks = "http://sso.example/jwks"',
    "such as groups[agents-*]": '[jwt.a]\nissuer = "x"\naudience = "y"\njwks = "/j"\ntenant = "groups[*-*]"',
    "must say whose token it is": "".join(
        f'[jwt.{name}]\nissuer = "{name}"\naudience = "y"\njwks = "/j"\n' for name in ("a", "b")
    )
    + '[principal.ci]\njwt = "ada"',
    "version": "version = 2",
    "Expected": "[principal",
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_a_fault_of_the_file_is_named_with_its_place(tmp_path: Path, complaint: str) -> None:
    file = tmp_path / "access.toml"
    file.write_text(FAULTS[complaint])
    with pytest.raises(AccessFileInvalid) as caught:
        Access(file=file)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


def test_two_tokens_hold_while_one_replaces_the_other(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write(f'[principal.ci]\ntoken = ["{office.digest_of("old")}", "{office.digest_of("new")}"]')
    access = Access(file=office.file)
    assert access.kinds == ("token",)
