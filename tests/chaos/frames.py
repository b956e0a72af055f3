"""Raw HTTP/2: connections that send what no gRPC client would, frame by frame."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _integer(value: int, bits: int, first: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    encoded, value = bytearray([first | most]), value - most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _text(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def field(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A header field as HPACK writes it; an indexed one can be referred to by one byte, REFERENCE, right after."""
    return bytes([0x40 if indexed else 0]) + _text(name) + _text(value)


REFERENCE = b"\xbe"
"""The newest entry of the dynamic table."""


def call(path: str, *more: bytes) -> bytes:
    """The header block of a gRPC call."""
    return b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(path.encode()),
            b"\x01" + _text(b"attack"),
            b"\x0f\x10" + _text(b"application/grpc"),
            field(b"te", b"trailers"),
            *more,
        ]
    )


def message(body: bytes = b"") -> bytes:
    """A gRPC message, as DATA frames carry it."""
    return struct.pack(">BI", 0, len(body)) + body


class Connection:
    """One connection; what the server sends is thrown away unless nobody reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reads: bool = True) -> None:
        """Read what comes, or let it fill up when not `reads`."""
        self._reader = reader
        self._writer = writer
        self.received = 0
        self._stream = -1
        self._reading = asyncio.create_task(self._read()) if reads else None

    async def _read(self) -> None:
        with suppress(OSError):
            while got := await self._reader.read(1 << 16):
                self.received += len(got)
                self._writer.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(got))))

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it."""
        return not self._writer.is_closing() and not self._reader.at_eof()

    def next_stream(self) -> int:
        """The id of a new stream."""
        self._stream += 2
        return self._stream

    async def send(self, *frames: bytes) -> bool:
        """Send frames; whether the connection is still there."""
        if not self.is_open:
            return False
        try:
            self._writer.write(b"".join(frames))
            await asyncio.wait_for(self._writer.drain(), 0.5)
        except (OSError, TimeoutError):
            return False
        return self.is_open

    async def close(self) -> None:
        """Close it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connect(address: str, *, preface: bytes = PREFACE, reads: bool = True) -> AsyncIterator[Connection]:
    """A connection that has begun with the preface and its settings."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Connection(reader, writer, reads=reads)
    try:
        writer.write(preface + (frame(SETTINGS) if preface == PREFACE else b""))
        yield connection
    finally:
        await connection.close()
