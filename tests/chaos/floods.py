"""Floods: what one host can send to the service's port without being anybody. Each runs for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from tests.chaos import frames
from tests.chaos.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, SETTINGS, connect

STATUS = "/agentservice.v1.AgentService/GetStatus"
WATCH = "/agentservice.v1.AgentService/WatchSession"
CONNECTIONS = 4
"""Connections of one flood."""

Flood = Callable[[str, float], Awaitable[int]]


async def _repeat(address: str, seconds: float, burst: Callable[[frames.Connection], bytes], reads: bool = True) -> int:
    """Send bursts on some connections, each new one when the server has closed it; how many bursts were taken."""
    deadline = time.monotonic() + seconds

    async def one() -> int:
        sent = 0
        while time.monotonic() < deadline:
            try:
                async with connect(address, reads=reads) as connection:
                    while time.monotonic() < deadline and await connection.send(burst(connection)):
                        sent += 1
                        await asyncio.sleep(0)
            except OSError:
                await asyncio.sleep(0.01)
        return sent

    return sum(await asyncio.gather(*(one() for _ in range(CONNECTIONS))))


def _each(make: Callable[[int], bytes], count: int) -> Callable[[frames.Connection], bytes]:
    return lambda connection: b"".join(make(connection.next_stream()) for _ in range(count))


def _called(stream: int, path: str = STATUS, *more: bytes) -> bytes:
    return frames.frame(HEADERS, END_HEADERS, stream, frames.call(path, *more))


async def refused(address: str, seconds: float) -> int:
    """Calls that are refused: nobody may make them, or their request is garbage."""
    garbage = frames.frame(DATA, END_STREAM, 0, frames.message(b"\xff\xff"))
    return await _repeat(address, seconds, _each(lambda s: _called(s) + _of(garbage, s), 20))


def _of(one: bytes, stream: int) -> bytes:
    return one[:5] + stream.to_bytes(4, "big") + one[9:]


async def rapid_reset(address: str, seconds: float) -> int:
    """Calls that are taken back as soon as they are made."""
    reset = frames.frame(RESET, 0, 0, bytes(4))
    return await _repeat(address, seconds, _each(lambda s: _called(s) + _of(reset, s), 100))


async def hpack_bomb(address: str, seconds: float) -> int:
    """Headers of 12 kB that refer 12,000 times to one of 3 kB."""
    bomb = frames.field(b"x", b"a" * 3000, indexed=True) + frames.REFERENCE * 12_000
    return await _repeat(address, seconds, _each(lambda s: _called(s, WATCH, bomb), 10))


async def small_references(address: str, seconds: float) -> int:
    """Headers of 12 kB that refer 12,000 times to one without a value."""
    bomb = frames.field(b"x", b"", indexed=True) + frames.REFERENCE * 12_000
    return await _repeat(address, seconds, _each(lambda s: _called(s, WATCH, bomb), 10))


async def long_metadata(address: str, seconds: float) -> int:
    """Calls that stay open, with as much metadata as a frame carries."""
    return await _repeat(address, seconds, _each(lambda s: _called(s, WATCH, frames.field(b"x", b"a" * 15_000)), 10))


async def pings(address: str, seconds: float) -> int:
    """Pings whose answers nobody reads."""
    return await _repeat(address, seconds, lambda _: frames.frame(PING, 0, 0, bytes(8)) * 1000, reads=False)


async def settings(address: str, seconds: float) -> int:
    """Settings whose acknowledgements nobody reads."""
    change = frames.frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\xff\xff")
    return await _repeat(address, seconds, lambda _: change * 1000, reads=False)


async def continuations(address: str, seconds: float) -> int:
    """Headers that never end."""
    begun: set[int] = set()

    def burst(connection: frames.Connection) -> bytes:
        head = b""
        if id(connection) not in begun:
            begun.add(id(connection))
            head = frames.frame(HEADERS, 0, 1, frames.call(STATUS))
        return head + frames.frame(CONTINUATION, 0, 1, frames.field(b"x", b"a" * 100) * 100) * 10

    return await _repeat(address, seconds, burst)


async def empty_data(address: str, seconds: float) -> int:
    """Calls whose request comes in pieces of nothing."""

    def burst(connection: frames.Connection) -> bytes:
        stream = connection.next_stream()
        return _called(stream) + frames.frame(DATA, 0, stream) * 2000

    return await _repeat(address, seconds, burst)


async def unread(address: str, seconds: float) -> int:
    """Calls whose answers nobody reads."""
    garbage = frames.frame(DATA, END_STREAM, 0, frames.message(b"\xff\xff"))
    return await _repeat(address, seconds, _each(lambda s: _called(s) + _of(garbage, s), 20), reads=False)


async def idle(address: str, seconds: float, count: int = 10_000) -> int:
    """Connections that say nothing, or half of what a connection begins with."""
    async with AsyncExitStack() as stack:
        opened = 0
        for number in range(count):
            begin = (frames.PREFACE, frames.PREFACE[:10], b"")[number % 3]
            try:
                await stack.enter_async_context(connect(address, preface=begin))
                opened += 1
            except OSError:
                break
        await asyncio.sleep(seconds)
    return opened


FLOODS: dict[str, Flood] = {
    "refused": refused,
    "rapid reset": rapid_reset,
    "HPACK bomb": hpack_bomb,
    "small references": small_references,
    "long metadata": long_metadata,
    "pings": pings,
    "settings": settings,
    "continuations": continuations,
    "empty data": empty_data,
    "unread": unread,
    "idle": idle,
}
