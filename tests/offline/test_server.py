"""The offline model over HTTP: streams, errors, cuts, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from typing import Any

import pytest

from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel, serve_forever

SERVE = "import asyncio; from agent_service.offline import serve_forever; asyncio.run(serve_forever('127.0.0.1', 0))"


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def send(url: str, line: str, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connect(url)
    writer.write(
        f"{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )
    return reader, writer


async def call(url: str, line: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """A whole response, however it ended; chunks are left as they are framed."""
    reader, writer = await send(url, line, body)
    head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *fields = head.decode().split("\r\n")
    return int(first.split()[1]), dict(field.lower().split(": ", 1) for field in fields), rest


def ask(prompt: str, **more: Any) -> bytes:
    request = {"model": "any-name", "max_tokens": 1, "messages": [{"role": "user", "content": prompt}], **more}
    return json.dumps(request).encode()


def unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return whole


async def test_a_message_is_streamed(model: OfflineModel) -> None:
    status, headers, body = await call(model.url, "POST /v1/messages?beta=true", ask("say: hello", stream=True))

    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    names = [line[7:] for line in body.decode().split("\n") if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert b'"model": "any-name"' in body
    assert body.endswith(b"0\r\n\r\n")


async def test_a_message_is_one_object_without_stream(model: OfflineModel) -> None:
    status, _, body = await call(model.url, "POST /v1/messages", ask("say: hello"))

    message = json.loads(unchunked(body))
    assert status == 200
    assert message["content"] == [{"type": "text", "text": "hello"}]
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
async def test_a_failure_looks_like_the_api(model: OfflineModel, status: int, kind: str) -> None:
    answered, headers, body = await call(model.url, "POST /v1/messages", ask(f"fail: {status} 7", stream=True))

    assert (answered, headers["retry-after"]) == (status, "7")
    assert json.loads(body)["error"]["type"] == kind


async def test_a_failure_after_text_is_an_event_of_the_stream(model: OfflineModel) -> None:
    _, _, streamed = await call(model.url, "POST /v1/messages", ask("say: a\nfail: 529", stream=True))
    status, _, _ = await call(model.url, "POST /v1/messages", ask("say: a\nfail: 529"))

    assert b"event: error" in streamed
    assert b"overloaded_error" in streamed
    assert status == 529


async def test_once_is_once(model: OfflineModel) -> None:
    statuses = [(await call(model.url, "POST /v1/messages", ask("fail-once: 500")))[0] for _ in range(3)]

    assert statuses == [500, 200, 200]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_cut_answer_has_no_end(model: OfflineModel, streamed: bool) -> None:
    status, _, body = await call(model.url, "POST /v1/messages", ask("say: begun\ncut", stream=streamed))

    assert status == 200
    assert b"begun" in body
    assert not body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff\xfe", b'"\\ud800"', b"[" * 100_000, b'{"model": "m", "messages": {}}', b"null", b"NaN"],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_garbage_is_an_error_of_the_api(model: OfflineModel, path: str, body: bytes) -> None:
    status, _, answered = await call(model.url, f"POST {path}", body)

    assert status == 400
    assert json.loads(answered)["error"]["type"] == "invalid_request_error"


async def test_the_small_endpoints(model: OfflineModel) -> None:
    assert (await call(model.url, "HEAD /"))[0] == 200
    assert json.loads((await call(model.url, "GET /"))[2])["model"] == OFFLINE_MODEL_NAME
    assert json.loads((await call(model.url, "GET /v1/models"))[2])["data"][0]["id"] == OFFLINE_MODEL_NAME
    counted = await call(model.url, "POST /v1/messages/count_tokens", ask("12345"))
    assert json.loads(counted[2]) == {"input_tokens": 2}
    status, _, body = await call(model.url, "GET /nothing")
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")
    assert (await call(model.url, "GET /v1/messages"))[0] == 405


async def test_many_tokens_come_at_full_speed(model: OfflineModel) -> None:
    started = time.monotonic()
    _, _, body = await call(model.url, "POST /v1/messages", ask("tokens: 20000", stream=True))

    assert body.count(b"tok ") == 20_000
    assert time.monotonic() - started < 5


async def test_silence_begins_after_the_message_has(model: OfflineModel) -> None:
    reader, writer = await send(model.url, "POST /v1/messages", ask("wait: 60", stream=True))
    seen = await reader.readuntil(b'"type": "message_start"')
    writer.close()

    assert b"content_block" not in seen


async def test_a_caller_that_leaves_is_noticed(model: OfflineModel) -> None:
    reader, writer = await send(model.url, "POST /v1/messages", ask("slow: 60", stream=True))
    await reader.readuntil(b"tick 1")
    assert model.statistics() == {"requests": 1, "answering": 1}

    writer.close()
    async with asyncio.timeout(5):
        while model.statistics()["answering"]:  # noqa: ASYNC110 - a count has no event to wait for
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("prompt", ["slow: 60", "wait: 60", "tokens: 1000000"])
async def test_open_streams_do_not_delay_the_end(prompt: str) -> None:
    async with OfflineModel() as model:
        reader, writer = await send(model.url, "POST /v1/messages", ask(prompt, stream=True))
        unfinished, half = await connect(model.url)
        half.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        await reader.readuntil(b"message_start")
        started = time.monotonic()
    assert time.monotonic() - started < 1  # a few milliseconds, on a machine that does nothing else
    with contextlib.suppress(ConnectionResetError):
        assert await unfinished.read() == b""
    writer.close()
    half.close()


async def test_it_serves_alone_until_a_signal() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    url = line.removeprefix("offline model listening on ").strip()
    assert (await call(url, "GET /"))[0] == 200

    process.send_signal(signal.SIGTERM)
    rest, errors = await process.communicate()
    assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_a_port_that_is_taken_is_said(model: OfflineModel) -> None:
    with pytest.raises(OSError, match="ddress already in use"):
        await serve_forever("127.0.0.1", int(model.url.rpartition(":")[2]))
