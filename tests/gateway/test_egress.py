"""The egress proxy: which hosts it lets through, by their names and by their addresses, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.agents import egress, few_lines
from agent_service.agents.egress import Egress, Refused, is_allowed, is_public, target

ALLOWED = ("files.example.com", "*.packages.example")


@asynccontextmanager
async def proxy(*addresses: str, may_reach: bool = True) -> AsyncIterator[tuple[str, int]]:
    """A proxy for ALLOWED, whose names have these addresses, and a host behind it that sends back what it gets."""

    serving: list[asyncio.Task[object]] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(cast("asyncio.Task[object]", asyncio.current_task()))
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)

    async def resolve(name: str) -> Sequence[str]:
        if not addresses:
            raise socket.gaierror("no such host")
        return addresses

    listener = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(host, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        opened = Egress(
            ALLOWED, resolve=resolve, may_reach=(lambda _: True) if may_reach else egress.is_public, port=port
        )
        await opened.open(listener)
        yield listener.getsockname()
        await opened.close()
        await asyncio.gather(*serving)


async def ask(at: tuple[str, int], head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    reader, writer = await asyncio.open_connection(*at)
    writer.write(head)
    return reader, writer, (await reader.readuntil(b"\r\n\r\n")).decode()


def connect(host: str, port: int = 443) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}\r\nproxy-connection: keep-alive\r\n\r\n".encode()


async def test_a_host_that_is_allowed_is_reached_through_a_tunnel() -> None:
    async with proxy("127.0.0.1") as at:
        for host in ("files.example.com", "FILES.Example.COM", "a.packages.example", "b.a.packages.example"):
            reader, writer, head = await ask(at, connect(host))
            assert head.startswith("HTTP/1.1 200 ")
            writer.write(b"client hello")
            writer.write_eof()
            assert await reader.read() == b"client hello"
            writer.close()


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "other.example.com",
        "xfiles.example.com",
        "files.example.com.evil.example",
        "packages.example",
        "xpackages.example",
        "files.example.com.",
        "files.example.com@evil.example",
        "user:pw@files.example.com",
        "files.example.com%00.evil.example",
        "files.example.com#.evil.example",
        "files.example.com/evil",
        "evil.example\\.packages.example",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "::1",
        "localhost",
        "",
        ".packages.example",
        "..packages.example",
        "a..packages.example",
        "-a.packages.example",
        "a" * 64 + ".packages.example",
        "a." * 120 + "packages.example",
        "xn--files-example.com",
        "*.packages.example",
    ],
)
async def test_no_other_name_is(host: str) -> None:
    async with proxy("127.0.0.1") as at:
        _, writer, head = await ask(at, connect(host))
        writer.close()
    assert head.split()[1] in ("403", "400")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (connect("files.example.com", 22), "403"),
        (connect("files.example.com", 80), "403"),
        (b"CONNECT files.example.com:0443 HTTP/1.1\r\n\r\n", "403"),
        (b"CONNECT files.example.com HTTP/1.1\r\n\r\n", "403"),
        (b"CONNECT files.example.com:443\0.evil.example:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT evil.example:443\tfiles.example.com:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT  files.example.com:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT f\xc3\xaeles.example.com:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT files\xe3\x80\x82example.com:443 HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT files.example.com:443 HTTP/2.0\r\n\r\n", "400"),
        (b"GET http://files.example.com/ HTTP/1.1\r\n\r\n", "405"),
        (b"\x05\x01\x00\r\n\r\n", "400"),
        (b"CONNECT files.example.com:443 HTTP/1.1\nx: y\r\n\r\n", "400"),
        (b"CONNECT files.example.com:443 HTTP/1.1\r\nx: " + b"y" * egress.MAX_HEAD + b"\r\n\r\n", "431"),
    ],
)
async def test_nothing_but_connect_to_the_port_of_https_is_carried(head: bytes, status: str) -> None:
    async with proxy("127.0.0.1") as at:
        _, writer, answer = await ask(at, head)
        writer.close()
    assert answer.split()[1] == status


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:1:2:3:4:5:6", False),
    ],
)
async def test_a_name_leads_to_addresses_of_the_internet_only(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
    if not public:
        async with proxy(address, may_reach=False) as at:
            _, writer, head = await ask(at, connect("files.example.com"))
            writer.close()
        assert head.startswith("HTTP/1.1 403 ")


async def test_a_name_is_resolved_once_and_what_was_looked_at_is_connected_to() -> None:
    """No second answer of a name server comes into play: an address is connected to, not a name."""
    answers = [["10.0.0.1", "127.0.0.1"], ["10.0.0.1"]]

    async def resolve(name: str) -> Sequence[str]:
        return answers.pop(0)

    looked: list[str] = []

    def may_reach(address: egress.Address) -> bool:
        looked.append(str(address))
        return str(address) == "127.0.0.1"

    listener = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        opened = Egress(ALLOWED, resolve=resolve, may_reach=may_reach, port=server.sockets[0].getsockname()[1])
        await opened.open(listener)
        _, writer, head = await ask(listener.getsockname(), connect("files.example.com"))
        writer.close()
        await opened.close()
    assert head.startswith("HTTP/1.1 200 ")
    assert (looked, answers) == (["10.0.0.1", "127.0.0.1"], [["10.0.0.1"]])


async def test_a_host_that_is_not_there_is_said() -> None:
    async with proxy() as at:
        _, writer, head = await ask(at, connect("files.example.com"))
        writer.close()
    assert head.startswith("HTTP/1.1 502 ")


async def test_an_agent_has_so_many_tunnels_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_TUNNELS", 2)
    async with proxy("127.0.0.1") as at:
        opened = [await ask(at, connect("files.example.com")) for _ in range(3)]
        assert [head.split()[1] for _, _, head in opened] == ["200", "200", "503"]
        opened[0][1].close()
        async with asyncio.timeout(5):
            while (again := await ask(at, connect("files.example.com")))[2].split()[1] != "200":
                again[1].close()
        for _, writer, _ in [*opened, again]:
            writer.close()


async def test_an_agent_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with proxy("127.0.0.1") as at:
        for number in range(30):
            _, writer, _ = await ask(at, connect(f"host{number}.example.com"))
            writer.close()
    assert "host0.example.com" in caplog.text
    assert len(caplog.records) == few_lines.MOST + 1


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "HEAD_TIMEOUT", 0.01)
    monkeypatch.setattr(egress, "IDLE_TIMEOUT", 0.01)
    async with proxy("127.0.0.1") as at, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*at)
        assert await reader.read() == b""
        writer.close()
        monkeypatch.setattr(egress, "HEAD_TIMEOUT", 5)
        reader, writer, head = await ask(at, connect("files.example.com"))
        assert head.startswith("HTTP/1.1 200 ")
        assert await reader.read() == b""
        writer.close()


PARTS = (
    *("files.example.com", ".packages.example", "evil.example", "a", ".", "@", "\0", "%00", "\r", " ", ":", "443"),
    *("127.0.0.1", "[::1]", "0x7f", "xn--", "İ", "。", "#", "/", "\\", "FILES", "-", "_", "*"),
)
HOSTILE = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(lambda text: f"CONNECT {text}:443 HTTP/1.1".encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(PARTS), max_size=8).map(lambda parts: f"CONNECT {''.join(parts)}:443 HTTP/1.1".encode()),
)


@given(HOSTILE)
def test_whatever_is_asked_for_nothing_passes_but_a_name_that_is_allowed(line: bytes) -> None:
    try:
        host = target(line)
    except Refused:
        return
    assert line.isascii()
    assert f"CONNECT {host}:443 HTTP/1.1" == line.decode().replace(line.decode().split(" ")[1], f"{host}:443")
    assert all(label and label.strip("-") == label for label in host.split("."))
    assert not host.split(".")[-1][0].isdecimal()
    if is_allowed(host, ALLOWED):
        assert host == "files.example.com" or host.endswith(".packages.example")
