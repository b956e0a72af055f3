"""Proxies of the environment: none on the way to this host, and where one is on the way, an error says so."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from agent_client import AgentClient, errors
from agent_client.proxies import EXEMPTIONS, VARIABLES, proxy_for

NO_RETRIES = {"grpc.enable_retries": 0}


class Proxy:
    """An HTTP proxy that tunnels every connection to one address, or refuses each."""

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.asked: list[str] = []
        self.open: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one CONNECT."""
        self.open.append(writer)
        request = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(request.split()[1].decode())
        if self.target is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        host, _, port = self.target.rpartition(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@pytest.fixture
async def proxy(service, monkeypatch):
    """A proxy that tunnels to the service, named by every variable there is."""
    proxy = Proxy(service.address)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name in EXEMPTIONS:
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, f"http://someone:secret@{proxy.address}")
    yield proxy
    server.close()
    for writer in proxy.open:
        writer.close()
    await asyncio.sleep(0)  # a connection is closed in the loop's next round


@pytest.mark.parametrize("form", ["{}", "ipv4:{}", "dns:///{}", "localhost:{}"])
async def test_no_proxy_is_on_the_way_to_this_host(service, proxy, form):
    address = service.address.rpartition(":")[2] if form.startswith("localhost") else service.address
    async with AgentClient(form.format(address)) as client:
        await client.server_info()
    assert proxy.asked == []


async def test_agentctl_reaches_this_host_whatever_proxies_are_set(service, proxy, agentctl):
    done = await agentctl("info")
    assert (done.code, proxy.asked) == (0, []), done


async def test_another_host_is_reached_through_the_proxy(proxy):
    async with AgentClient("service.example:50051") as client:
        await client.server_info()
    assert proxy.asked == ["service.example:50051"]


async def test_a_proxy_that_refuses_is_named_without_its_password(proxy):
    proxy.target = None
    with pytest.raises(errors.Unavailable, match=r"grpc_proxy.*add service\.example to no_proxy") as caught:
        await _call("service.example:50051")
    assert proxy.address in caught.value.message
    assert "secret" not in caught.value.message
    assert "start one" not in caught.value.message


@pytest.mark.parametrize("exempt", ["service.invalid", ".invalid", "*", "a.example, invalid"])
@pytest.mark.parametrize("variable", EXEMPTIONS)
async def test_no_proxy_is_respected(proxy, monkeypatch, variable, exempt):
    monkeypatch.setenv(variable, exempt)
    with pytest.raises(errors.Unavailable, match="start one"):
        await _call("service.invalid:50051")
    assert proxy.asked == []


async def test_a_callers_own_choice_goes_before(service, proxy):
    async with AgentClient(service.address, channel_options={"grpc.enable_http_proxy": 1}) as client:
        await client.server_info()
    assert proxy.asked == [service.address]


@pytest.mark.parametrize(
    "target",
    [
        "unix:/x",
        "unix-abstract:x",
        "localhost",
        "a.localhost:1",
        "127.9.9.9:1",
        "[::1]:1",
        "ipv6:%5B::1%5D:1",
        "0.0.0.0:1",
    ],
)
def test_what_is_this_host(target):
    assert proxy_for(target, {"http_proxy": "p:1"}) is None


@pytest.mark.parametrize("target", ["10.0.0.7:1", "[2001:db8::1]:1", "host", "dns:///host:1", "localhost.example:1"])
def test_what_is_another_host(target):
    assert proxy_for(target, {"http_proxy": "http://p:1", "no_proxy": "10.1.0.0/16,x"}) == ("http_proxy", "p:1")
    assert proxy_for(target, {"HTTPS_PROXY": "http://p:1"}) is None, "gRPC reads lower case only"


def test_networks_in_no_proxy():
    assert proxy_for("10.1.2.3:1", {"http_proxy": "p:1", "no_proxy": "10.1.0.0/16"}) is None


async def _call(target: str) -> None:
    async with AgentClient(target, first_contact_for=0.2, channel_options=NO_RETRIES) as client:
        await client.server_info()
