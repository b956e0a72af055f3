"""Verifying audit files: every line is the one that was written after the line before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from agent_service.audit.chain import MAX_LINE, OPENED, REPAIRED, START, claimed, holds, torn_digest

MAX_PROBLEMS = 20


@dataclass
class Verified:
    """The findings about files of one chain, the oldest first."""

    problems: list[str] = field(default_factory=list)
    records: int = 0
    first: int = 0
    """The number of the first record; above 1 an older file comes before these."""
    head: str = START
    continues: str = START
    """The chain that the first file continues."""
    anchored_at: int = 0
    """The number of the record whose chain is the head that was asked for; 0: there is none."""


def verify(files: Sequence[Path], head: str = "") -> Verified:
    """Check files of one chain, the oldest first, and that `head` is the chain of one of their records.

    Raises OSError for a file that cannot be read.
    """
    found = Verified()
    for number, file in enumerate(files):
        with file.open("rb") as lines:
            _File(found, file, continued=number > 0, wanted=head).check(lines)
    if head and not found.anchored_at:
        found.problems.append(f"no record has the head {head}: the end was cut off, or all was written anew")
    return found


class _File:
    def __init__(self, found: Verified, file: Path, *, continued: bool, wanted: str) -> None:
        self._found = found
        self._file = file
        self._continued = continued
        self._wanted = wanted
        self._number = 0
        self._torn: bytes | None = None

    def check(self, lines: BinaryIO) -> None:
        for line in _lines(lines):
            self._number += 1
            if not line.endswith(b"\n"):
                self._problem("is not complete: a crash tore it, or it is being written")
                return
            self._check(line[:-1])
            if len(self._found.problems) >= MAX_PROBLEMS:
                return
        if self._number == 0:
            self._found.problems.append(f"{self._file} is empty")
        self._settle({})

    def _check(self, line: bytes) -> None:
        record = _record(line)
        if self._number == 1:
            self._begin(record)
        self._settle(record)
        if not claimed(line):
            self._torn = line  # the next line says whether a crash tore it
        else:
            self._compare(line, record)
            self._accept(record, claimed(line))

    def _settle(self, record: dict[str, Any]) -> None:
        """Accept the line before this record as torn by a crash only if the record says so."""
        torn, self._torn = self._torn, None
        if torn is not None and (record.get("event") != REPAIRED or record.get("torn") != torn_digest(torn)):
            self._problem("is no record", line=self._number - 1 if record else self._number)

    def _compare(self, line: bytes, record: dict[str, Any]) -> None:
        if not holds(line, self._found.head):
            self._problem("is not what was written after the line before it")
        elif record.get("seq") != self._next_sequence():
            self._problem(f"has the number {record.get('seq')} instead of {self._next_sequence()}")

    def _begin(self, record: dict[str, Any]) -> None:
        if record.get("event") != OPENED:
            self._problem("is not the first of a file: lines before it are missing")
            return
        previous = str(record.get("previous", ""))
        if self._continued and previous != self._found.head:
            self._problem("does not continue the file before it")
        elif not self._continued:
            self._found.continues = self._found.head = previous
            self._found.first = record.get("seq", 1)

    def _next_sequence(self) -> int:
        return (self._found.first or 1) + self._found.records

    def _accept(self, record: dict[str, Any], chain: str) -> None:
        self._found.records += 1
        self._found.head = chain
        if chain == self._wanted:
            self._found.anchored_at = record.get("seq", 0)

    def _problem(self, text: str, line: int = 0) -> None:
        self._found.problems.append(f"{self._file}, line {line or self._number}: {text}")


def _lines(lines: BinaryIO) -> Iterator[bytes]:
    while line := lines.readline(MAX_LINE):
        yield line


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
