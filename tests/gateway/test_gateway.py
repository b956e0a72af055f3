"""The gateway alone: what it passes on, what it puts in, what it keeps back, and what becomes of errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent_service.agents import gateway
from agent_service.agents.gateway import Gateway, GatewaySocket
from agent_service.agents.upstream import Upstream, without_credentials
from agent_service.backends import provider_in_use
from agent_service.errors import CannotServe

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Api:
    """A model API that answers as a test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.answers: list[Answer] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((line for line in head.lower().split("\r\n") if line.startswith("content-length:")), "0")
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(length.rpartition(":")[2])))
                await (self.answers.pop(0) if self.answers else ok)(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def ok(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def answer(text: str) -> Answer:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.replace("\n", "\r\n").encode())

    return send


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    async with await asyncio.start_server(api.serve, "127.0.0.1", 0) as server:
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield api


@asynccontextmanager
async def gate(
    folder: Path, upstream: Upstream, is_theirs: Callable[[socket.socket], bool] = lambda _: True
) -> AsyncIterator[Path]:
    """A gateway's socket."""
    path = folder / "model"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    async with Gateway(upstream) as opened:
        served: GatewaySocket = await opened.serve(listener, is_theirs)
        yield path
        await served.close()


async def call(path: Path, line: str, *headers: str, body: bytes = b"") -> tuple[str, bytes]:
    """Head and body of an answer; chunks are left as they are framed."""
    reader, writer = await asyncio.open_unix_connection(path)
    head = [f"{line} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}", *headers]
    writer.write(("\r\n".join(head) + "\r\n\r\n").encode() + body)
    received, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return received.decode(), rest


async def test_the_credential_takes_the_placeholders_place(api: Api, tmp_path: Path) -> None:
    async with gate(tmp_path, Upstream(f"{api.url}/prefix", api_key="real-key", token="real-token")) as path:
        await call(path, "POST /v1/messages?beta=true", "x-api-key: theirs", "anthropic-beta: a,b", body=b"{}")
        await call(path, "POST /v1/messages/count_tokens", "Authorization: Bearer theirs", "Cookie: c=1")

    first, second = (head.lower() for head in api.heads)
    assert first.startswith("post /prefix/v1/messages?beta=true http/1.1\r\n")
    assert "x-api-key: real-key\r\n" in first
    assert "anthropic-beta: a,b\r\n" in first
    assert "authorization" not in first
    assert "authorization: bearer real-token\r\n" in second
    assert "x-api-key" not in second
    assert "cookie" not in second
    assert "theirs" not in first + second
    assert "host: 127.0.0.1:" in first
    assert api.bodies[0] == b"{}"


async def test_headers_of_the_operators_are_put_in_too(api: Api, tmp_path: Path) -> None:
    given = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "k", "ANTHROPIC_CUSTOM_HEADERS": "X-Team: a:b\nnone"}
    async with gate(tmp_path, Upstream.of(given)) as path:
        await call(path, "POST /v1/messages", "x-team: theirs")

    assert api.heads[0].lower().count("x-team: ") == 1
    assert "x-team: a:b\r\n" in api.heads[0].lower()


def test_certificates_that_cannot_be_read_are_said_at_the_start(tmp_path: Path) -> None:
    for name in ("NODE_EXTRA_CA_CERTS", "CLAUDE_CODE_CLIENT_CERT"):
        with pytest.raises(CannotServe, match=name):
            Upstream.of({name: str(tmp_path / "absent.pem")}).tls()


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/files",
        "GET /v1/messages",
        "DELETE /v1/messages",
        "POST /v1/messages/batches",
        "POST /v1/messages/../files",
        "POST /v1/messages%2f..%2ffiles",
        "POST //v1/messages",
        "POST /v1/messages/",
        "POST http://elsewhere.example/v1/messages",
        "GET /v1/models/../organizations",
        "GET /api/oauth/profile",
        "POST /api/event_logging/batch",
    ],
)
async def test_what_the_agent_has_no_use_for_is_not_passed_on(api: Api, tmp_path: Path, line: str) -> None:
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        head, body = await call(path, line)

    assert head.startswith(("HTTP/1.1 404", "HTTP/1.1 400", "HTTP/1.0 400"))
    assert body != b"ok"
    assert api.heads == []


async def test_a_refusal_of_the_api_comes_with_its_headers(api: Api, tmp_path: Path) -> None:
    limit = "HTTP/1.1 429 Too Many Requests\nretry-after: 7\nanthropic-ratelimit-tokens-remaining: 0\n"
    api.answers = [answer(limit + "set-cookie: a=b\ncontent-type: application/json\ncontent-length: 2\n\n{}")]
    api.answers.append(answer("HTTP/1.1 529 Site is overloaded\ncontent-length: 4\n\nbusy"))
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        limited, body = await call(path, "POST /v1/messages")
        overloaded, busy = await call(path, "POST /v1/messages")

    assert limited.startswith("HTTP/1.1 429 ")
    assert "retry-after: 7" in limited.lower()
    assert "anthropic-ratelimit-tokens-remaining: 0" in limited.lower()
    assert "set-cookie" not in limited.lower()
    assert body == b"{}"
    assert (overloaded.split()[1], busy) == ("529", b"busy")


async def test_a_stream_is_passed_on_as_it_comes(api: Api, tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def two_events(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: x\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        await seen.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    api.answers = [two_events]
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        head = await reader.readuntil(b"first")
        seen.set()
        await reader.readuntil(b"second")
        await reader.readuntil(b"0\r\n\r\n")
        writer.close()
    assert b"content-encoding: x" in head.lower()


async def test_a_connection_that_was_closed_between_two_requests_is_made_anew(api: Api, tmp_path: Path) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    api.answers = [ok, close]
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        assert (await call(path, "POST /v1/messages"))[1] == b"ok"
        assert (await call(path, "POST /v1/messages", body=b"{}"))[1] == b"ok"
    assert api.bodies == [b"", b"{}", b"{}"]


async def test_an_answer_that_breaks_off_breaks_off(api: Api, tmp_path: Path) -> None:
    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        writer.close()

    api.answers = [half]
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        try:
            received = await reader.read()
        except ConnectionResetError:
            received = b""
        writer.close()
    assert not received.endswith(b"0\r\n\r\n")


async def test_an_agent_that_leaves_takes_its_request_along(api: Api, tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert await reader.read() == b""
        gone.set()

    api.answers = [silent]
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        await reader.readuntil(b"first")
        writer.close()
        async with asyncio.timeout(5):
            await gone.wait()


async def test_bodies_are_bounded_whether_they_say_their_length_or_not(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MAX_BODY", 100)
    async with gate(tmp_path, Upstream(api.url, api_key="k")) as path:
        head, body = await call(path, "POST /v1/messages", body=b"x" * 101)
        assert head.startswith("HTTP/1.1 413 ")
        assert b"request_too_large" in body
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"80\r\n" + b"x" * 128 + b"\r\n0\r\n\r\n")
        assert b" 413 " in await reader.readline()
        writer.close()
    assert api.heads == []


async def test_an_api_that_cannot_be_reached_is_an_error_that_the_agent_tries_again(tmp_path: Path) -> None:
    async with gate(tmp_path, Upstream("http://127.0.0.1:9", api_key="k")) as path:
        head, body = await call(path, "POST /v1/messages")

    assert head.startswith("HTTP/1.1 502 ")
    assert b"the service cannot reach the model API" in body


async def test_nobody_else_is_answered_however_many_try(api: Api, tmp_path: Path) -> None:
    theirs = [True]
    async with gate(tmp_path, Upstream(api.url, api_key="k"), lambda _: theirs[0]) as path:
        theirs[0] = False
        strangers = [await asyncio.open_unix_connection(path) for _ in range(gateway.MAX_CONNECTIONS + 10)]
        for reader, writer in strangers:
            assert (await reader.read()).startswith(b"HTTP/1.1 403 Forbidden")
            writer.close()
        theirs[0] = True
        assert (await call(path, "GET /v1/models"))[1] == b"ok"
    assert len(api.heads) == 1


def test_the_way_to_the_api_is_read_as_the_cli_reads_it() -> None:
    upstream = Upstream.of(
        {"ANTHROPIC_API_KEY": "k", "HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "corp.example", "https_proxy": ""}
    )
    assert (upstream.url, upstream.api_key, upstream.proxy) == ("https://api.anthropic.com", "k", "http://proxy:3128")
    assert upstream.shown_url == "http://api.anthropic.com"
    within = Upstream.of(
        {
            "ANTHROPIC_BASE_URL": "https://user:pw@models.corp.example:8443/claude/",
            "ANTHROPIC_AUTH_TOKEN": "t",
            "HTTPS_PROXY": "http://proxy:3128",
            "NO_PROXY": "corp.example",
        }
    )
    assert (within.token, within.proxy, within.shown_url) == ("t", "", "http://models.corp.example:8443")
    assert "k" not in repr(Upstream("http://h", api_key="k"))


def test_no_credential_and_no_proxy_of_the_operators_is_left() -> None:
    given = {"PATH": "/bin", "ANTHROPIC_API_KEY": "k", "CLAUDE_CODE_OAUTH_TOKEN": "t", "https_proxy": "http://u:p@x"}
    given |= {"ANTHROPIC_CUSTOM_HEADERS": "x-team: t", "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE": "p"}
    assert without_credentials(given) == {
        "PATH": "/bin",
        "ANTHROPIC_API_KEY": "held-by-the-gateway",
        "CLAUDE_CODE_OAUTH_TOKEN": "held-by-the-gateway",
    }
    assert provider_in_use({"CLAUDE_CODE_USE_BEDROCK": "1"}) == "Bedrock"
    assert provider_in_use({"CLAUDE_CODE_USE_BEDROCK": "0", "CLAUDE_CODE_USE_VERTEX": "true"}) == "Vertex"
    assert provider_in_use({"ANTHROPIC_API_KEY": "k"}) == ""
