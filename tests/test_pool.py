"""Warm agents: who gets one, what they bring along (nothing), and what becomes of those nobody asked for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents import demand, warm
from agent_service.agents.agent import AgentFailed
from agent_service.agents.demand import Demand, Profile, shares
from agent_service.agents.launch import Launch
from agent_service.agents.warm import WarmAgents
from tests.conftest import Service, start_service


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a thing, not for a time."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def warmed(service: Service, options: pb.AgentOptions | None = None) -> None:
    """Wait until an agent is connected that no session has yet: one for these options."""
    await until(lambda: service.running.pool.waiting(options or pb.AgentOptions()) > 0)


async def began_warm(service: Service, session_id: str) -> list[bool]:
    """Of each turn of a session, whether it found a connected agent."""
    return [e.turn_started.warm for e in await service.events(session_id, event_types=["turn.started"])]


def agent_processes(data_dir: Path) -> list[psutil.Process]:
    """Every process that has the data directory's files as its own."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(data_dir) in process.environ().get("CLAUDE_CONFIG_DIR", ""):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


# ---------------------------------------------------------------------------------------------------- with the real CLI


async def test_a_new_session_gets_a_connected_agent_and_another_takes_its_place(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    await warmed(service)
    first = await service.run("one")
    assert await began_warm(service, first.session.session_id) == [True]
    await warmed(service)
    second = await service.run("two")
    assert await began_warm(service, second.session.session_id) == [True]
    assert first.session.agent_session_id != second.session.agent_session_id
    figures = service.running.pool.statistics()
    assert (figures.warm_starts, figures.cold_starts) == (2, 0)
    assert figures.warm_start_duration.ToMicroseconds() > 0
    assert figures.resident_bytes > 50 << 20


async def test_a_session_of_other_options_is_started_for_itself(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    await warmed(service)
    other = await service.run("one", options=pb.AgentOptions(allowed_tools=["Bash"]))
    assert await began_warm(service, other.session.session_id) == [False]
    assert service.running.pool.statistics().cold_starts == 1


async def test_what_a_caller_names_at_the_start_is_there_before_the_session_is(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    await warmed(service)
    asked = await service.execute("hello")
    assert asked.session.agent_session_id
    assert asked.session.cwd.endswith(f"/sessions/{asked.session.agent_session_id}/work")
    rest = await service.rest(asked.session_id)
    assert (rest.session.cwd, rest.session.agent_session_id) == (asked.session.cwd, asked.session.agent_session_id)


async def test_a_warm_agent_takes_the_model_and_the_permission_mode_of_its_session(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    options = pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_DEFAULT, model="offline", tools=["default"])
    await service.run("learn", options=options)
    await warmed(service, options)
    options.permission_mode, options.model = pb.PERMISSION_MODE_DONT_ASK, "offline-two"
    session = (await service.run("bash: touch no", options=options)).session
    assert await began_warm(service, session.session_id) == [True]
    assert session.model == "offline-two"
    status = await service.status(session.session_id)
    assert [denial.tool_name for denial in status.result.permission_denials] == ["Bash"]


async def test_only_an_agent_started_for_it_bypasses_permissions(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    learned = pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_DEFAULT)
    await service.run("learn", options=learned)
    await warmed(service, learned)
    options = pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_BYPASS_PERMISSIONS)
    bypassing = await service.run("bash: echo yes", options=options)
    assert await began_warm(service, bypassing.session.session_id) == [False]
    assert not (await service.status(bypassing.session.session_id)).result.permission_denials


async def test_nothing_of_one_session_reaches_the_next(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    options = pb.AgentOptions(allowed_tools=["Bash"])
    command = 'bash: pwd; echo "$TMPDIR"; ls -A . "$TMPDIR"; touch mine "$TMPDIR/mine"'
    outputs, sessions = [], []
    for label in ("first", "second"):
        done = await service.run(command, options=options, labels={"who": label})
        sessions.append(done.session)
        events = await service.events(done.session_id)
        blocks = [block for event in events for block in event.user_message.content if block.HasField("tool_result")]
        outputs.append(str(blocks[0]))
        await warmed(service, options)
    assert await began_warm(service, sessions[1].session_id) == [True]
    assert sessions[0].cwd in outputs[0]
    assert sessions[1].cwd in outputs[1]
    assert sessions[0].agent_session_id not in outputs[1]
    assert "mine" not in outputs[1]
    assert dict(sessions[1].labels) == {"who": "second"}
    assert len({session.cwd for session in sessions}) == 2


async def test_a_warm_agent_that_does_something_by_itself_is_no_sessions_agent(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(warm_agents=1)
    await warmed(service)
    [waiting] = service.running.pool._warm._waiting
    await waiting.agent.prompt(str(uuid4()), "say: as if another session had told it so")
    await until(lambda: service.running.pool.statistics().retired == 1)
    assert "did what nobody had asked for" in caplog.text
    done = await service.run("recall")
    assert done.session.agent_session_id != waiting.agent_session_id
    assert done.turn.result.result == "recall"


async def test_the_variables_of_one_caller_are_in_no_agent_of_another(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=2)
    with_secret = pb.AgentOptions(allowed_tools=["Bash"], env={"SECRET": "of the first"})
    await service.run("learn", options=with_secret)
    await warmed(service, with_secret)
    done = await service.run('bash: echo "[$SECRET]"', options=pb.AgentOptions(allowed_tools=["Bash"]))
    assert "of the first" not in str(await service.events(done.session_id))


async def test_a_fork_and_a_continued_conversation_are_never_given_a_warm_agent(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1, idle_timeout=0)
    parent = (await service.run("remember this")).session
    await warmed(service)
    again = await service.run("go on", session_id=parent.session_id)
    fork = await service.run("go on otherwise", fork_from=parent.session_id)
    assert await began_warm(service, parent.session_id) == [False, False]
    assert await began_warm(service, fork.session_id) == [False]
    assert again.session.agent_session_id == parent.agent_session_id


async def test_what_an_agent_reads_at_its_start_keeps_it_from_being_started_early(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    service = await start(warm_agents=2)
    await warmed(service)  # the one for a session without options
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    for options in (
        pb.AgentOptions(setting_sources=[pb.SETTING_SOURCE_PROJECT]),
        pb.AgentOptions(cwd=str(repository)),
    ):
        for _ in range(2):
            session = (await service.run("hello", options=options)).session
            assert await began_warm(service, session.session_id) == [False]


async def test_the_death_of_a_warm_agent_is_noticed_by_no_session(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "BACKOFF", 0.01)
    service = await start(warm_agents=1)
    await warmed(service)
    for process in agent_processes(service.data_dir):
        with suppress(psutil.NoSuchProcess):  # the death of one brings that of others
            process.send_signal(signal.SIGKILL)
    first = await service.run("one")
    assert first.session.state == pb.SESSION_STATE_COMPLETED
    await warmed(service)


async def test_a_turn_that_waits_for_a_place_gets_its_agent_when_it_has_one(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1, max_sessions=1)
    await warmed(service)
    running = await service.execute("slow: 1")
    waiting = await service.execute("hello")
    assert running.session.agent_session_id
    assert not waiting.session.agent_session_id
    assert not waiting.session.cwd
    rest = await service.rest(waiting.session_id)
    assert rest.session.state == pb.SESSION_STATE_COMPLETED
    assert rest.session.cwd.endswith(f"/sessions/{rest.session.agent_session_id}/work")


async def test_sessions_that_rest_give_up_their_process_when_there_are_too_many(start: Callable[..., Any]) -> None:
    service = await start(max_idle=1)
    first = (await service.run("one")).session_id
    second = (await service.run("two")).session_id
    assert (await service.until(first, pb.SESSION_PHASE_DORMANT)).state == pb.SESSION_STATE_COMPLETED
    assert (await service.status(second)).session.phase == pb.SESSION_PHASE_IDLE
    await service.run("again", session_id=first)
    await service.until(second, pb.SESSION_PHASE_DORMANT)


async def test_one_that_rests_gives_up_its_process_when_memory_is_short(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start()
    first = (await service.run("one")).session_id
    assert (await service.status(first)).session.phase == pb.SESSION_PHASE_IDLE
    monkeypatch.setattr("agent_service.agents.pool.memory", lambda: warm_memory(available=1))
    await service.until(first, pb.SESSION_PHASE_DORMANT)


def warm_memory(available: int) -> Any:
    from agent_service.agents.host_memory import Memory

    return Memory(available, 8 << 30)


async def test_after_a_restart_agents_are_there_for_what_was_asked_for_before(tmp_path: Path) -> None:
    options = pb.AgentOptions(allowed_tools=["Bash"])
    async with start_service(tmp_path / "data") as service:
        await service.run("one", options=options)
    async with start_service(tmp_path / "data", warm_agents=1) as service:
        await warmed(service, options)
        session = (await service.run("two", options=options)).session
        assert await began_warm(service, session.session_id) == [True]


async def test_nothing_is_left_of_agents_that_nobody_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with start_service(data, warm_agents=2) as service:
        await warmed(service)
        assert agent_processes(data)
        used = await service.run("one")
        await warmed(service)
    assert not agent_processes(data)
    assert os.listdir(data / "sessions") == [used.session.agent_session_id]
    assert os.listdir(data / "warm") == []
    assert os.listdir(data / "tmp") == []


async def test_a_crash_leaves_no_directory_of_an_agent_without_a_session(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data"):
        pass
    left = tmp_path / "data" / "sessions" / "left"
    for folder in (left / "work", left / "scratch", tmp_path / "data" / "warm"):
        folder.mkdir(parents=True, exist_ok=True)
    (left / "scratch" / "mcp.json").touch()
    (tmp_path / "data" / "warm" / "left").touch()
    async with start_service(tmp_path / "data"):
        assert not left.exists()


# ----------------------------------------------------------------------------------------------------------- with fakes


def a_profile(key: str) -> Profile:
    return Profile("", key, pb.AgentOptions())


def test_demand_halves_and_is_forgotten() -> None:
    known = Demand()
    a = a_profile("a")
    for _ in range(4):
        known.note(a, now=0)
    assert known.weights(0) == {a: 4}
    assert known.weights(demand.HALF_LIFE) == {a: 2}
    assert known.weights(5 * demand.HALF_LIFE) == {}


def test_demand_remembers_a_bounded_number_of_profiles() -> None:
    known = Demand()
    for number in range(3 * demand.MAX_PROFILES):
        known.note(a_profile(str(number)), now=number)
    assert len(known.weights(3 * demand.MAX_PROFILES)) == demand.MAX_PROFILES


@pytest.mark.parametrize(
    ("weights", "given"),
    [
        ({}, {}),
        ({"a": 1}, {"a": 1}),
        ({"a": 9}, {"a": 4}),
        ({"a": 3, "b": 1}, {"a": 3, "b": 1}),
        ({"a": 0.5}, {}),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, {"a": 1, "b": 1, "c": 1, "d": 1}),
    ],
)
def test_places_go_to_what_is_wanted_most(weights: dict[str, float], given: dict[str, int]) -> None:
    result = shares({a_profile(key): weight for key, weight in weights.items()}, 4)
    assert {profile.key: count for profile, count in result.items() if count} == given


class FakeAgent:
    """An agent without a process."""

    def __init__(self, number: int, *, fails: bool = False) -> None:
        self.alive = False
        self.rehearsed = False
        self.sink: Any = None
        self.fails = fails
        self.spec = type("Spec", (), {"options": type("Options", (), {"session_id": f"fake-{number}"})})

    def attach(self, sink: Any) -> None:
        self.sink = sink

    async def connect(self) -> None:
        if self.fails:
            raise AgentFailed("AGENT_EXITED", "it did not start")
        self.alive = True

    async def answers(self) -> bool:
        return self.alive

    async def rehearse(self) -> None:
        self.rehearsed = True

    def die(self) -> None:
        self.alive = False
        self.sink.on_exit(AgentFailed("AGENT_EXITED", "it died"))


class Bench:
    """WarmAgents with everything around them in a test's hands."""

    def __init__(self, places: int) -> None:
        self.made: list[FakeAgent] = []
        self.ended: list[Any] = []
        self.version = 1
        self.may_start = True
        self.short = False
        self.fail = False
        self.agents = WarmAgents(
            places=places,
            make=self.make,
            end=self.ended.append,
            made_with=lambda profile: self.version,
            may_start=lambda: self.may_start,
            short_of_memory=lambda: self.short,
        )

    async def make(self, profile: Profile) -> Any:
        self.made.append(FakeAgent(len(self.made), fails=self.fail))
        return self.made[-1]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[int], Bench]]:
    for name, value in (("QUIET", 0.01), ("CHECK_INTERVAL", 0.05), ("BACKOFF", 0.01)):
        monkeypatch.setattr(warm, name, value)
    benches: list[Bench] = []

    def make(places: int) -> Bench:
        benches.append(Bench(places))
        benches[-1].agents.open()
        return benches[-1]

    yield make
    for each in benches:
        each.agents.stop()
        await each.agents.stopped()


async def test_an_agent_is_given_away_once(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    a = a_profile("a")
    kept.agents.expect(a)
    await until(lambda: kept.agents.ready() == 1)
    taken = kept.agents.take(a)
    assert taken is not None
    assert await taken.connected
    assert kept.agents.take(a) is None
    assert kept.made[0].rehearsed
    await until(lambda: len(kept.made) == 2)


async def test_one_that_is_still_being_started_is_better_than_none(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    a = a_profile("a")
    kept.agents.expect(a)
    await until(lambda: kept.made)
    await until(lambda: len(kept.agents))
    taken = kept.agents.take(a)
    assert taken is not None
    assert await taken.connected


async def test_none_is_started_while_somebody_waits_for_a_start(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    kept.may_start = False
    kept.agents.expect(a_profile("a"))
    await asyncio.sleep(0.1)
    assert not kept.made
    kept.may_start = True
    await until(lambda: kept.agents.ready() == 1)


async def test_memory_pressure_retires_all_and_starts_none(bench: Callable[[int], Bench]) -> None:
    kept = bench(2)
    for _ in range(3):
        kept.agents.expect(a_profile("a"))
    await until(lambda: kept.agents.ready() == 2)
    kept.short = True
    await until(lambda: len(kept.ended) == 2)
    assert len(kept.made) == 2
    assert kept.agents.retired == 2


async def test_what_was_started_with_something_older_is_neither_given_nor_kept(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    a = a_profile("a")
    kept.agents.expect(a)
    await until(lambda: kept.agents.ready() == 1)
    kept.version = 2
    assert kept.agents.take(a) is None
    await until(lambda: kept.ended == [kept.made[0]] and kept.agents.ready() == 1)


async def test_what_is_too_old_is_replaced(bench: Callable[[int], Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bench(1)
    kept.agents.expect(a_profile("a"))
    await until(lambda: kept.agents.ready() == 1)
    monkeypatch.setattr(warm, "MAX_AGE", 0.0)
    await until(lambda: kept.ended)
    monkeypatch.undo()


async def test_what_dies_while_it_waits_is_replaced(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    kept.agents.expect(a_profile("a"))
    await until(lambda: kept.agents.ready() == 1)
    kept.made[0].die()
    await until(lambda: kept.agents.ready() == 1 and len(kept.made) == 2)


async def test_what_does_not_start_is_tried_again_less_and_less_often(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    a = a_profile("a")
    kept.fail = True
    kept.agents.expect(a)
    await until(lambda: len(kept.ended) == 3)
    assert kept.agents.take(a) is None
    kept.fail = False
    await until(lambda: kept.agents.ready() == 1)
    assert len(kept.ended) == len(kept.made) - 1


async def test_a_place_changes_hands_only_for_what_is_wanted_clearly_more(bench: Callable[[int], Bench]) -> None:
    kept = bench(1)
    a, b = a_profile("a"), a_profile("b")
    kept.agents.expect(a)
    await until(lambda: kept.agents.ready() == 1)
    kept.agents.expect(b)
    await asyncio.sleep(0.1)
    assert kept.agents.take(b) is None
    assert not kept.ended
    for _ in range(3):
        kept.agents.expect(b)
    await until(lambda: kept.ended == [kept.made[0]])
    await until(lambda: kept.agents.ready() == 1)
    assert kept.agents.take(b) is not None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (pb.AgentOptions(model="a"), pb.AgentOptions(model="b"), True),
        (
            pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_PLAN),
            pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_DEFAULT),
            True,
        ),
        (
            pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_BYPASS_PERMISSIONS),
            pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_DEFAULT),
            False,
        ),
        (pb.AgentOptions(), pb.AgentOptions(interactions=pb.InteractionPolicy(permissions=True)), False),
        (pb.AgentOptions(allowed_tools=["Bash"]), pb.AgentOptions(), False),
        (pb.AgentOptions(env={"A": "1"}), pb.AgentOptions(env={"A": "2"}), False),
    ],
)
def test_agents_are_alike_in_what_is_fixed_at_their_start(
    one: pb.AgentOptions, other: pb.AgentOptions, equal: bool
) -> None:
    assert (Launch.key(one) == Launch.key(other)) is equal
