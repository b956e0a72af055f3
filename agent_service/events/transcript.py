"""Reading a transcript, the CLI's file of a conversation, from its end.

Whatever runs as the agent's user can change the file at any time: put a link or a pipe in its place, make it sparse, or
truncate it while it is read. A process that has mapped the file dies of the last one, so pieces are read instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20
"""Bytes that are read at a time."""
MAX_LINE = 32 << 20
"""Bytes of a line; the beginning of a longer one is left out."""
MOST = 1 << 30
"""Bytes that are looked through."""


def lines_backwards(transcript: Path, text: bytes) -> Iterator[bytes]:
    """The lines that have a text in them, the last one first. Raises OSError; blocks for a few milliseconds."""
    descriptor = os.open(transcript, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            for lines in _pieces(descriptor, found.st_size):
                if text in lines:
                    yield from (line for line in reversed(lines.split(b"\n")) if text in line)
    finally:
        os.close(descriptor)


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """Pieces of whole lines, the last one first."""
    rest, end = b"", size
    while end > max(0, size - MOST):
        start = max(0, end - PIECE)
        piece = os.pread(descriptor, end - start, start) + rest
        first, newline, lines = piece.partition(b"\n")
        if not start:
            yield piece
        elif newline:
            rest = first
            yield lines
        else:
            rest = piece if len(piece) <= MAX_LINE else b""
        end = start
