"""Whatever happens in whatever order, every reader sees the same log without gaps, and partials in their place."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from agentpb import agent_pb2 as pb
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agent_service.ledger import Commit, Event, Ledger, Position
from agent_service.ledger.tail import Tail
from tests.ledger.logs import begin, event, key, partial, session, shown


class Reader:
    """A watcher: a position, and what it has seen."""

    def __init__(self, ledger: Ledger, after: int) -> None:
        """Begin behind a sequence."""
        self.after = after
        self.seen: list[Event] = []
        self.tail: Tail = ledger.tail(key("s"))
        self.position = ledger.cursor(key("s"), after)

    async def read(self, ledger: Ledger, limit: int) -> bool:
        """Read a batch; whether there was one."""
        responses, position = await ledger.follow(key("s"), self.position, limit=limit)
        batch = shown(responses)
        assert (position.sequence > self.position.sequence) == any(each.sequence for each in batch)
        assert all(len(shown([response])) <= limit for response in responses)
        self.seen += batch
        self.position = position
        return bool(batch)

    def check(self, log: list[Event]) -> None:
        """Its events are the log from its beginning, its partials lie where they were sent, none twice."""
        sequence, last_partial = self.after, -1
        for each in self.seen:
            if each.sequence:
                assert each == log[sequence]
                sequence += 1
            else:
                place, number = map(int, pb.SessionEvent.FromString(each.body).partial_message.text.split())
                assert place == sequence
                assert number > last_partial
                last_partial = number


class Watching(RuleBasedStateMachine):
    """One writer, many readers, and now and then a restart."""

    def __init__(self) -> None:
        """Begin with an empty session."""
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.runner = asyncio.Runner()
        self.log: list[Event] = []
        self.partials = 0
        self.readers: list[Reader] = []
        self.holder: Tail | None = None
        self.ledger = self.open()
        self.runner.run(begin(self.ledger, session("s")))

    def open(self) -> Ledger:
        """Open the ledger."""
        return self.runner.run(Ledger(self.directory).__aenter__())

    @rule(count=st.sampled_from([1, 1, 2, 5, 40, 300]), size=st.sampled_from([0, 100, 9000]), wait=st.booleans())
    def append(self, count: int, size: int, wait: bool) -> None:
        """Append events; wait for the disk or do not."""
        first = len(self.log) + 1
        added = [event("s", number, text="x" * size) for number in range(first, first + count)]
        self.log += added

        async def append() -> None:
            future = self.ledger.append(Commit(key("s"), events=added))
            if wait:
                await future

        self.runner.run(append())

    @rule(count=st.sampled_from([1, 3, 100, 600]))
    def publish(self, count: int) -> None:
        """Send partials that say where they belong."""

        async def publish() -> None:
            for _ in range(count):
                self.partials += 1
                self.ledger.publish(key("s"), partial(f"{len(self.log)} {self.partials}"))

        self.runner.run(publish())

    @rule(share=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def come(self, share: float) -> None:
        """A reader comes, behind something that is durable."""
        durable = self.runner.run(self.ledger.last_sequence(key("s")))
        self.readers.append(Reader(self.ledger, round(durable * share)))

    @rule(data=st.data(), limit=st.sampled_from([1, 7, 256]))
    def read(self, data: st.DataObject, limit: int) -> None:
        """A reader reads a batch."""
        if self.readers:
            reader = data.draw(st.sampled_from(self.readers))
            self.runner.run(reader.read(self.ledger, limit))
            reader.check(self.log)

    @rule(hold=st.booleans())
    def hold(self, hold: bool) -> None:
        """The writer holds the tail, or lets go of it."""
        self.holder = self.ledger.tail(key("s")) if hold else None

    @rule()
    def restart(self) -> None:
        """Everybody reconnects to a new start of the service."""
        self.runner.run(self.ledger.__aexit__(None, None, None))
        self.holder = None
        self.ledger = self.open()
        for reader in self.readers:
            reader.tail = self.ledger.tail(key("s"))
            reader.position = Position(reader.position.sequence)

    def teardown(self) -> None:
        """In the end everybody has seen everything."""
        try:
            self.runner.run(self.finish())
        finally:
            self.runner.run(self.ledger.__aexit__(None, None, None))
            self.runner.close()
            shutil.rmtree(self.directory)

    async def finish(self) -> None:
        """Read to the end."""
        await self.ledger.append(Commit(key("s")))
        for reader in self.readers:
            while await reader.read(self.ledger, 256):
                pass
            reader.check(self.log)
            assert [each for each in reader.seen if each.sequence] == self.log[reader.after :]


TestWatching = Watching.TestCase
TestWatching.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
