"""Standard streams: data is UTF-8 whatever the locale says; what is for people shows what their encoding lacks."""

from __future__ import annotations

import sys
from typing import TextIO

import typer


def degrade_visibly(stream: TextIO) -> None:
    """Let a stream write what its encoding lacks as an escape, such as `\\u4f60`, instead of failing or dropping it."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def write_data(text: str) -> None:
    """Write to standard output what programs or files take: UTF-8, and newlines as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()


def read_data() -> str:
    """Read standard input as UTF-8, byte for byte. Raises BadParameter with the offset of what is none."""
    return _decoded(sys.stdin.buffer.read(), "standard input")


def argument(text: str, what: str) -> str:
    """Return an argument that the locale could not decode as the UTF-8 it is; raise BadParameter if it is none."""
    if not any("\udc80" <= each <= "\udcff" for each in text):
        return text
    return _decoded(text.encode(sys.getfilesystemencoding(), "surrogateescape"), what)


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise typer.BadParameter(
            f"{what} is not UTF-8: byte 0x{bad:02x} at offset {error.start}; convert it first, for example with iconv"
        ) from None
