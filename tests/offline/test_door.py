"""The offline model's door: the key, and bounds for whoever reaches its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent_service.offline import OfflineModel, door

from .test_server import ask, call, connect, send

KEY = "k-1"


@pytest.fixture
async def locked() -> AsyncIterator[OfflineModel]:
    async with OfflineModel(key=KEY) as model:
        yield model


def keyed(line: str, key: str = KEY, header: str = "x-api-key: ") -> str:
    return f"{line} HTTP/1.1\r\n{header}{key}\r\nx-rest:"


@pytest.mark.parametrize("line", ["POST /v1/messages", "POST /v1/messages/count_tokens", "GET /v1/models", "GET /"])
async def test_without_the_key_nothing_is_answered(locked: OfflineModel, line: str) -> None:
    for request in (line, keyed(line, "k-2"), keyed(line, ""), keyed(line, "Bearer k-2", "authorization: ")):
        status, _, body = await call(locked.url, request, ask("say: hello"))
        assert status == 401
        assert b"authentication_error" in body
        assert b"hello" not in body
    assert locked.requests == 0


@pytest.mark.parametrize(
    "line", [keyed("POST /v1/messages"), keyed("POST /v1/messages", "Bearer k-1", "authorization: ")]
)
async def test_the_key_opens_as_api_key_and_as_bearer_token(locked: OfflineModel, line: str) -> None:
    assert (await call(locked.url, line, ask("say: hello")))[0] == 200


async def test_strangers_give_way_to_each_other_and_disturb_nobody_who_has_the_key(locked: OfflineModel) -> None:
    reader, writer = await send(locked.url, keyed("POST /v1/messages"), ask("slow: 60", stream=True))
    await reader.readuntil(b"message_start")
    strangers = [await connect(locked.url) for _ in range(door.MAX_STRANGERS + 20)]

    assert await closed(strangers[0][0])
    assert (await call(locked.url, keyed("GET /v1/models")))[0] == 200
    assert await reader.readuntil(b"tick 2")
    for _, each in [*strangers, (reader, writer)]:
        each.close()


async def test_a_stranger_has_little_time(locked: OfflineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "STRANGER_TIME", 0.01)
    silent, slow, refused = await connect(locked.url), await connect(locked.url), await connect(locked.url)
    slow[1].write(b"POST /v1/messages HTTP/1.1\r\nx-api-key")
    refused[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

    async with asyncio.timeout(5):
        assert [await closed(reader) for reader, _ in (silent, slow, refused)] == [True, True, True]
    for _, writer in (silent, slow, refused):
        writer.close()


async def test_connections_are_bounded(model: OfflineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    reader, writer = await send(model.url, "POST /v1/messages", ask("slow: 60", stream=True))
    await reader.readuntil(b"message_start")
    other = await connect(model.url)

    assert await closed(other[0])
    assert await reader.readuntil(b"tick 2")
    for _, each in (other, (reader, writer)):
        each.close()


async def test_a_request_is_bounded_in_size_also_when_it_does_not_say_it(
    model: OfflineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_BODY", 100)
    status, _, body = await call(model.url, "POST /v1/messages", ask("x" * 100))
    assert (status, b"request_too_large" in body) == (413, True)

    reader, writer = await connect(model.url)
    writer.write(
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"40\r\n" + b" " * 64 + b"\r\n"
    )
    writer.write(b"40\r\n" + b" " * 64 + b"\r\n")
    assert await closed(reader)
    writer.close()


async def test_a_request_that_never_ends_is_given_up(model: OfflineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "REQUEST_TIME", 0.01)
    reader, writer = await connect(model.url)
    writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    async with asyncio.timeout(5):
        assert await closed(reader)
    writer.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Read to the end; whether there was one."""
    try:
        await reader.read()
    except ConnectionResetError:
        return True
    return reader.at_eof()


async def test_no_other_process_of_the_host_is_answered_by_the_services_model(start: Callable[..., Any]) -> None:
    service = await start()

    assert (await call(service.running.model_url, keyed("POST /v1/messages", "offline"), ask("say: hello")))[0] == 401
    session_id = (await service.run("say: hello")).session_id
    assert (await service.status(session_id)).result.result == "hello"
