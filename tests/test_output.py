"""Output: lines are written whole and in order when somebody reads, and dropped and counted when nobody does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest

from agent_service.output import MAX_PENDING, JsonLines, LineHandler, LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its reading and its writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_lines(descriptor: int, count: int) -> list[str]:
    """Wait for so many lines."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(descriptor, 1 << 20)
    return data.decode().splitlines()


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int], blocking: bool) -> None:
    reading, writing = pipe
    os.set_blocking(writing, blocking)
    writer = LineWriter(writing)
    lines = [f"{number} {'x' * 700}" for number in range(1000)]
    for line in lines:
        writer.put(line)
    assert read_lines(reading, 1000) == lines
    assert writer.flush(10)


def test_a_line_that_cannot_be_encoded_is_written_with_escapes(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    writer.put("a lone \ud800")
    assert read_lines(pipe[0], 1) == ["a lone \\ud800"]


def test_what_nobody_reads_is_dropped_and_counted_once_somebody_does(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = LineHandler(writing)
    handler.setFormatter(JsonLines())
    record = logging.LogRecord("here", logging.INFO, "file", 1, "%s", ("x" * 1000,), None)
    written = 3 * MAX_PENDING // 1000
    for _ in range(written):
        handler.emit(record)
    assert not handler.lines.flush(0)
    handler_lines = read_lines(reading, 1)
    while not any("were dropped" in line for line in handler_lines):
        handler.emit(record)
        written += 1
        handler_lines += read_lines(reading, 1)
    told = [line for line in handler_lines if "were dropped" in line]
    assert int(json.loads(told[0])["event"].split()[0]) > 1000
    handler.close()


def test_a_reader_that_has_gone_stops_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.put("to nobody")
    assert writer.flush(10)
    os.close(writing)
