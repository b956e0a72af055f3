"""FieldReader: the whole of a field that was cut in an event, a turn, an interaction or a session."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import IO

from agentpb import agent_pb2 as pb
from google.protobuf.message import Message

from agent_service.errors import InteractionNotFound, InvalidField, SequenceInFuture, SessionNotFound, TurnNotFound
from agent_service.events import OF_RECORDS, event_of_raw, field_at, first_of, is_stub
from agent_service.ledger import Ledger, SessionKey, key_of

PIECE = 1 << 20
"""Bytes of a piece."""
IN_MEMORY = 4 << 20
"""Bytes of a field that is held in memory while it is sent; a longer one waits in a temporary file."""
AT_ONCE = 2
"""Fields that are looked up at the same time: each takes the memory of its record while that lasts."""

_IN_SESSION = re.compile(r"(?:pending_interactions\[(\d+)\]|(current_turn))\.(.+)")


class Field:
    """A whole field, to be read piece by piece."""

    def __init__(self, size: int, file: IO[bytes]) -> None:
        """Read `size` bytes from `file`."""
        self.size = size
        self._file = file

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its pieces, at least one."""
        yield await asyncio.to_thread(self._file.read, PIECE)
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece


class FieldReader:
    """Finds whole fields in the ledger. Parsing goes on in threads: a record may have many megabytes."""

    def __init__(self, ledger: Ledger) -> None:
        """Read from `ledger`."""
        self._ledger = ledger
        self._places = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def open(self, request: pb.ReadFieldRequest, session: pb.Session) -> AsyncIterator[Field]:
        """The field that a request names; `session` is as callers see it.

        Raises InvalidField, SessionNotFound, TurnNotFound, InteractionNotFound, SequenceInFuture.
        """
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
            async with self._places:
                size = await self._write(request, session, file)
            yield Field(size, file)

    async def _write(self, request: pb.ReadFieldRequest, session: pb.Session, file: IO[bytes]) -> int:
        found = await self._find(request, session)
        if found is None:
            raise InvalidField.of(
                "field", f"{request.field[:200]!r} names no field of this record that is stored whole"
            )

        def write() -> int:
            size = file.write(found)
            file.seek(0)
            return size

        return await asyncio.to_thread(write)

    async def _find(self, request: pb.ReadFieldRequest, session: pb.Session) -> bytes | None:
        match request.WhichOneof("record"):
            case "sequence":
                return await self._of_event(session, request.sequence, request.field)
            case "turn_id":
                return await self._of_turn(key_of(session), request.turn_id, request.field)
            case "interaction_id":
                return await self._of_interaction(key_of(session), request.interaction_id, request.field)
            case _:
                return await self._of_session(session, request.field)

    async def _of_session(self, session: pb.Session, path: str) -> bytes | None:
        """A field of the session itself; what it shows of other records is looked up there."""
        place = _IN_SESSION.fullmatch(path)
        if place is None:
            return await asyncio.to_thread(field_at, session, path)
        index, _, rest = place.groups()
        if index is None:
            return await self._of_turn(key_of(session), session.current_turn.turn_id, rest)
        if int(index) >= len(session.pending_interactions):
            return None
        interaction_id = session.pending_interactions[int(index)].interaction_id
        return await self._of_interaction(key_of(session), interaction_id, rest)

    async def _of_turn(self, key: SessionKey, turn_id: str, path: str) -> bytes | None:
        turn = await self._ledger.turn_of(key, turn_id)
        if turn is None:
            raise TurnNotFound(f"session {key.session_id} has no turn {turn_id[:128]}", resource=turn_id[:128])
        return await self._kept(key, f"turn {turn_id}", path, turn, turn.truncated_fields)

    async def _of_interaction(self, key: SessionKey, interaction_id: str, path: str) -> bytes | None:
        found = await self._interaction(key, interaction_id)
        if found is None:
            raise InteractionNotFound(
                f"session {key.session_id} has no interaction {interaction_id[:128]}", resource=interaction_id[:128]
            )
        return await self._kept(key, f"interaction {interaction_id}", path, *found)

    async def _interaction(self, key: SessionKey, interaction_id: str) -> tuple[pb.Interaction, list[str]] | None:
        """An interaction as the newest event about it shows it, and what was cut in it there."""
        before: int | None = None
        while page := await self._ledger.read(
            key, 0, types=("interaction.*",), newest_first=True, before_sequence=before
        ):
            for stored in page:
                event = pb.SessionEvent.FromString(stored.body)
                payload = str(event.WhichOneof("payload"))
                interaction: pb.Interaction = getattr(event, payload).interaction
                if interaction.interaction_id == interaction_id:
                    prefix = f"{payload}.interaction."
                    return interaction, [path.removeprefix(prefix) for path in event.truncated_fields]
            before = page[-1].sequence
        return None

    async def _of_event(self, session: pb.Session, sequence: int, path: str) -> bytes | None:
        if sequence > session.last_sequence:
            raise SequenceInFuture(
                f"sequence {sequence} is past the log's end; the last sequence is {session.last_sequence}",
                metadata={"last_sequence": str(session.last_sequence)},
            )
        key = key_of(session)
        if path == "raw_json":
            return await self._ledger.raw(key, sequence)
        found = await self._ledger.read(key, sequence - 1, limit=1)
        if not found:
            raise SessionNotFound(session.session_id)  # it has been deleted since it was looked up
        event = pb.SessionEvent.FromString(found[0].body)
        payload = first_of(path)
        if payload in OF_RECORDS and event.WhichOneof("payload") == payload:
            return await self._of_record(key, event, payload, path)
        raw = await self._ledger.raw(key, sequence)
        if raw is None:
            return await self._kept(key, f"event {sequence}", path, event, event.truncated_fields)
        if is_stub(raw):
            return None if event.truncated_fields else await asyncio.to_thread(field_at, event, path)
        return await asyncio.to_thread(_in_raw, raw, event, path)

    async def _of_record(self, key: SessionKey, event: pb.SessionEvent, payload: str, path: str) -> bytes | None:
        """A field of the turn or the interaction that an event shows."""
        if (rest := path.removeprefix(f"{payload}.turn.")) != path:
            return await self._of_turn(key, getattr(event, payload).turn.turn_id, rest)
        if (rest := path.removeprefix(f"{payload}.interaction.")) != path:
            interaction_id = getattr(event, payload).interaction.interaction_id
            return await self._of_interaction(key, interaction_id, rest)
        return None

    async def _kept(self, key: SessionKey, record: str, path: str, shown: Message, cut: Iterable[str]) -> bytes | None:
        """A field that was kept beside its record, or of the record itself, in which it was not cut.

        None for a field that an earlier version cut: it kept only what it showed.
        """
        name = first_of(path)
        body = await self._ledger.whole(key, record, name)
        if body is None:
            lost = name in map(first_of, cut)
            return None if lost else await asyncio.to_thread(field_at, shown, path)
        parse: Callable[[bytes], Message] = type(shown).FromString
        return await asyncio.to_thread(lambda: field_at(parse(body), path))


def _in_raw(raw: bytes, shown: pb.SessionEvent, path: str) -> bytes | None:
    """A field of the agent's own message, which repeats the usage of a message on each of its parts."""
    event = event_of_raw(raw)
    if event is None:
        return None
    if not shown.assistant_message.HasField("usage") and event.HasField("assistant_message"):
        event.assistant_message.ClearField("usage")
    return field_at(event, path)
