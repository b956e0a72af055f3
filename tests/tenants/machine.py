"""Two tenants on one service, who do whatever the contract has, in any order: neither learns that the other exists.

Each tenant's texts carry its marker, each id that the service makes is noted for whom it was sent. What a tenant asks
with the other's ids is asked again with ids that nobody has: both answers must be equal, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import grpc.aio
from agentpb import agent_pb2 as pb
from google.protobuf.message import Message
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agent_service.auth import digest_of, new_token
from tests.world import World

NAMES = ("nightly", "review", "deploy")
"""Ids that both tenants choose."""
REQUEST_IDS = ("build-1", "build-2")
KIND = {"kind": "queued"}
"""The label of sessions that a machine makes; they wait for a place for as long as the machine runs."""
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
FILE = """
[tenant.default]
sandbox = "off"
settings_json = true
[principal.alice]
token = "{amber}"
tenant = "amber"
[principal.bob]
token = "{cobalt}"
tenant = "cobalt"
"""


class Answer(NamedTuple):
    """What a call brought: responses, or the refusal with everything that was sent of it."""

    responses: tuple[Message, ...] = ()
    refusal: tuple[Any, ...] = ()

    @property
    def data(self) -> bytes:
        """All of it as bytes, to be searched and compared."""
        return (
            b"\n".join(each.SerializeToString(deterministic=True) for each in self.responses)
            + repr(self.refusal).encode()
        )

    @property
    def code(self) -> str:
        """The name of the status code."""
        return self.refusal[0].name if self.refusal else "OK"


class Tenant:
    """One tenant, and what it knows."""

    def __init__(self, name: str, principal: str, token: str) -> None:
        """Begin with nothing."""
        self.name, self.principal, self.token = name, principal, token
        self.marker = f"{name}-secret"
        self.sessions: set[str] = set()
        self.ids: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.told: set[bytes] = set()
        """UUIDs in what the service has sent to it."""
        self.page_tokens: list[str] = []
        self.keys: set[str] = set()
        """Request ids that it has used."""

    def __repr__(self) -> str:
        """Return its name."""
        return self.name


KINDS = ("session", "turn", "interaction", "message")


class Probe(NamedTuple):
    """A request with ids of others in it: the field's path → the kind of id; `own`: a session of the caller's own."""

    method: str
    fields: dict[str, str]
    request: Message
    own: str = ""


def _permission() -> pb.AgentOptions:
    return pb.AgentOptions(interactions={"permissions": True})


PROBES = (
    Probe("GetStatus", {"session_id": "session"}, pb.GetStatusRequest()),
    Probe("WatchSession", {"session_id": "session"}, pb.WatchSessionRequest()),
    Probe("ListEvents", {"session_id": "session"}, pb.ListEventsRequest()),
    Probe("Cancel", {"session_id": "session"}, pb.CancelRequest(force=True)),
    Probe("DeleteSession", {"session_id": "session"}, pb.DeleteSessionRequest(force=True)),
    Probe("DeleteSession", {"session_id": "session"}, pb.DeleteSessionRequest(force=True, allow_missing=True)),
    Probe("SendMessage", {"session_id": "session"}, pb.SendMessageRequest(text="hello")),
    Probe("Interrupt", {"session_id": "session"}, pb.InterruptRequest()),
    Probe("Interrupt", {"session_id": "session", "turn_id": "turn"}, pb.InterruptRequest()),
    Probe("Interrupt", {"turn_id": "turn"}, pb.InterruptRequest(), own="session_id"),
    Probe(
        "RespondToInteraction",
        {"session_id": "session", "interaction_id": "interaction"},
        pb.RespondToInteractionRequest(allow={}),
    ),
    Probe(
        "RespondToInteraction",
        {"interaction_id": "interaction"},
        pb.RespondToInteractionRequest(deny={}),
        own="session_id",
    ),
    Probe("ReadField", {"session_id": "session"}, pb.ReadFieldRequest(sequence=1, field="text")),
    Probe("ReadField", {"session_id": "session", "turn_id": "turn"}, pb.ReadFieldRequest(field="prompt")),
    Probe("ReadField", {"turn_id": "turn"}, pb.ReadFieldRequest(field="prompt"), own="session_id"),
    Probe("ReadField", {"interaction_id": "interaction"}, pb.ReadFieldRequest(field="input_json"), own="session_id"),
    Probe("Execute", {"session_id": "session"}, pb.ExecuteRequest(prompt="x", mode=pb.EXECUTE_MODE_RESUME)),
    Probe("Execute", {"fork_from": "session"}, pb.ExecuteRequest(prompt="x")),
    Probe("Execute", {"fork_from": "session", "fork_at_turn_id": "turn"}, pb.ExecuteRequest(prompt="x")),
    Probe("Execute", {"fork_at_turn_id": "turn"}, pb.ExecuteRequest(prompt="x"), own="fork_from"),
    Probe(
        "Execute",
        {"options.resume_at_message_uuid": "message"},
        pb.ExecuteRequest(prompt="x", validate_only=True),
        own="session_id",
    ),
)
"""Every field that has an id of something that exists, in every request. A test compares with the contract."""

NO_REFERENCES = {
    "Execute.request_id": "keys are each tenant's own: `again`",
    "Cancel.request_id": "as Execute's",
    "Cleanup.request_id": "as Execute's",
    "DeleteSession.request_id": "as Execute's",
    "SendMessage.request_id": "as Execute's",
    "Interrupt.request_id": "as Execute's",
    "RespondToInteraction.request_id": "as Execute's",
    "ListSessions.page_token": "`page`",
    "ListEvents.page_token": "`page`",
    "ListSessions.filter.created_by": "`look_for_the_other`",
    "CountSessions.filter.created_by": "`look_for_the_other`",
    "Cleanup.filter.created_by": "`clean_up`",
    "CancelSessions.filter.created_by": "`cancel_many`",
    "Execute.profile": "names the operator's",
    "PrepareAgents.profile": "names the operator's",
    "PrepareAgents.options.resume_at_message_uuid": "no agent is prepared with it, and nothing is looked up",
    "CountSessions.group_by": "names a label",
}
"""Fields with names that refer to nothing of a tenant's, or have a rule of their own."""


class Tenants:
    """The service and its tenants. Two sessions hold both places, so that all others wait and cost nothing."""

    def __init__(self, directory: Path) -> None:
        """Start the service, and give each tenant a session at rest and one that asks."""
        directory.mkdir(parents=True, exist_ok=True)
        self.tenants = [Tenant("amber", "alice", new_token()), Tenant("cobalt", "bob", new_token())]
        file = directory / "access.toml"
        file.write_text(FILE.format(**{tenant.name: digest_of(tenant.token) for tenant in self.tenants}))
        settings = {"access": file, "max_sessions": 2, "max_queued": 100_000, "idle_timeout": 0.1}
        self.world = World(directory / "data", patience=120, **settings)
        for tenant in self.tenants:
            self._begin(tenant)

    def close(self) -> None:
        """End the service."""
        self.world.close()

    def call(self, tenant: Tenant, method: str, request: Message, **metadata: str) -> Answer:
        """Call as a tenant, and look at what came back: nothing of the other's may be in it."""
        answer = self.world.run(self._call(tenant, method, request, metadata))
        other = self.other(tenant)
        data, asked = answer.data, request.SerializeToString()
        assert other.marker.encode() not in data, f"{method} tells {tenant.name} a text of {other.name}"
        told = {each for each in UUID.findall(data) if each not in asked}
        if method != "GetServerInfo":  # it tells all the same instance
            tenant.told |= told
            assert not told & other.told, f"{method} tells {tenant.name} ids of {other.name}"
        return answer

    async def _call(self, tenant: Tenant, method: str, request: Message, metadata: dict[str, str]) -> Answer:
        sent = {"authorization": f"Bearer {tenant.token}"} | {
            key.replace("_", "-"): each for key, each in metadata.items()
        }
        call = getattr(self.world.service.stub, method)(request, metadata=[*sent.items()], timeout=60)
        try:
            if isinstance(call, grpc.aio.UnaryStreamCall):
                return Answer(tuple([response async for response in call]))
            return Answer((await call,))
        except grpc.aio.AioRpcError as error:
            return Answer((), (error.code(), error.details(), tuple(error.trailing_metadata() or ())))

    def other(self, tenant: Tenant) -> Tenant:
        """The other tenant."""
        return self.tenants[1 - self.tenants.index(tenant)]

    def ok(self, tenant: Tenant, method: str, request: Message) -> Any:
        """Call, and return the only response of what must succeed."""
        answer = self.call(tenant, method, request)
        assert not answer.refusal, (method, answer.refusal)
        return answer.responses[-1]

    def note(self, tenant: Tenant, response: pb.ExecuteResponse) -> None:
        """Remember a session and its turn."""
        tenant.sessions.add(response.session_id)
        tenant.ids["session"].append(response.session_id)
        tenant.ids["turn"].append(response.turn.turn_id)

    def records(self, tenant: Tenant) -> dict[str, str]:
        """The tenant's sessions, where each one stands, and the number of its last change."""
        listed = self.ok(tenant, "ListSessions", pb.ListSessionsRequest(page_size=1000))
        assert not listed.next_page_token
        return {session.session_id: _standing(session) for session in listed.sessions}

    def _begin(self, tenant: Tenant) -> None:
        run = pb.ExecuteRequest(prompt=f"say: {tenant.marker}", title=tenant.marker, wait={"seconds": 60})
        done = self.ok(tenant, "Execute", run)
        self.note(tenant, done)
        self._until(tenant, done.session_id, pb.SESSION_PHASE_DORMANT)  # it says nothing more
        events = self.ok(tenant, "ListEvents", pb.ListEventsRequest(session_id=done.session_id))
        tenant.ids["message"] = sorted({each.decode() for each in UUID.findall(events.SerializeToString())})
        asking = pb.ExecuteRequest(
            prompt=f"bash: touch {tenant.marker}", options=_permission(), wait={"seconds": 0}, labels={"kind": "asking"}
        )
        started = self.ok(tenant, "Execute", asking)
        self.note(tenant, started)
        session = self._until(tenant, started.session_id, pb.SESSION_PHASE_AWAITING_PERMISSION)
        tenant.ids["interaction"] = [each.interaction_id for each in session.pending_interactions]

    def _until(self, tenant: Tenant, session_id: str, phase: int) -> pb.Session:
        after = 0
        while True:
            request = pb.GetStatusRequest(
                session_id=session_id, wait={"seconds": 30}, wait_for=pb.WAIT_FOR_NEW_EVENT, after_sequence=after
            )
            status = self.ok(tenant, "GetStatus", request)
            if status.session.phase == phase:
                return status.session
            assert not status.wait_expired
            after = status.session.last_sequence


def isolation(tenants: Tenants) -> Any:
    """Return the state machine for these tenants; its attribute `calls` counts what they have called."""
    who = st.sampled_from(tenants.tenants)

    class Isolation(RuleBasedStateMachine):
        """Everything that the contract has, by two tenants."""

        calls = examples = 0

        @initialize()
        def begin(self) -> None:
            Isolation.examples += 1
            self.before = {tenant.name: tenants.records(tenant) for tenant in tenants.tenants}
            self.acting: Tenant | None = None
            self.last = ""

        def act(self, tenant: Tenant, method: str, request: Message, **metadata: str) -> Answer:
            self.acting, self.last = tenant, f"{method} {request}"
            Isolation.calls += 1
            return tenants.call(tenant, method, request, **metadata)

        @rule(
            tenant=who,
            name=st.sampled_from(("", *NAMES)),
            mode=st.sampled_from(pb.ExecuteMode.values()),
            key=st.sampled_from(("", "", *REQUEST_IDS)),
        )
        def execute(self, tenant: Tenant, name: str, mode: int, key: str) -> None:
            """What exists of the other's changes nothing: names and request ids are each tenant's own."""
            request = pb.ExecuteRequest(
                prompt=f"say: {tenant.marker}", session_id=name, mode=mode, labels=KIND, on_busy=pb.ON_BUSY_ENQUEUE
            )
            if key:
                request.request_id = f"{key}-{Isolation.examples}"
            exists, used = name in tenant.sessions, request.request_id in tenant.keys
            answer = self.act(tenant, "Execute", request)
            if not answer.refusal:
                tenant.keys |= {request.request_id} - {""}
                if not answer.responses[0].deduplicated:
                    tenants.note(tenant, answer.responses[0])
            elif not used:
                assert answer.code == self.refusal(mode, name, exists)

        def refusal(self, mode: int, name: str, exists: bool) -> str:
            """The code of a refusal that only what is the tenant's own explains."""
            if mode == pb.EXECUTE_MODE_RESUME:
                return "RESOURCE_EXHAUSTED" if exists else "NOT_FOUND" if name else "INVALID_ARGUMENT"
            assert exists
            return "ALREADY_EXISTS" if mode == pb.EXECUTE_MODE_CREATE else "RESOURCE_EXHAUSTED"

        @rule(tenant=who, probe=st.sampled_from(PROBES), which=st.integers(0, 1000))
        def use_the_others_ids(self, tenant: Tenant, probe: Probe, which: int) -> None:
            """What refers to the other's is answered as what refers to nothing, and changes nothing of it."""
            other = tenants.other(tenant)
            foreign, absent = type(probe.request)(), type(probe.request)()
            twins = {}
            for request in (foreign, absent):
                request.CopyFrom(probe.request)
                if probe.method == "SendMessage":
                    request.text = tenant.marker
                if probe.own:
                    _set(request, probe.own, min(tenant.ids["session"]))
            for path, kind in probe.fields.items():
                known = [each for each in other.ids[kind] if each not in tenant.sessions]
                value = known[which % len(known)]
                twin = _twin(value)
                twins[twin] = value
                _set(foreign, path, value)
                _set(absent, path, twin)
            answer = self.act(tenant, probe.method, foreign)
            expected = self.act(tenant, probe.method, absent)
            data = expected.data
            for twin, value in twins.items():
                data = data.replace(twin.encode(), value.encode())
            assert answer.data == data, f"{probe.method} tells the other's {foreign} from nobody's"

        @rule(tenant=who, size=st.integers(1, 3))
        def page(self, tenant: Tenant, size: int) -> None:
            """A page token of the other's opens nothing."""
            for token in ("", *tenants.other(tenant).page_tokens[-2:]):
                answer = self.act(tenant, "ListSessions", pb.ListSessionsRequest(page_size=size, page_token=token))
                if not answer.refusal:
                    listed = answer.responses[0]
                    assert {session.session_id for session in listed.sessions} <= tenant.sessions
                    tenant.page_tokens += [listed.next_page_token] if listed.next_page_token else []

        @rule(tenant=who)
        def look_for_the_other(self, tenant: Tenant) -> None:
            """Filters and counts are about the tenant's own."""
            of_the_other = pb.SessionFilter(created_by=tenants.other(tenant).principal)
            assert (
                not self.act(tenant, "ListSessions", pb.ListSessionsRequest(filter=of_the_other)).responses[0].sessions
            )
            title = pb.SessionFilter(title_contains=tenants.other(tenant).marker)
            assert not self.act(tenant, "ListSessions", pb.ListSessionsRequest(filter=title)).responses[0].sessions
            own = self.act(tenant, "CountSessions", pb.CountSessionsRequest()).responses[0]
            assert own.total == len(tenant.sessions)
            info = self.act(tenant, "GetServerInfo", pb.GetServerInfoRequest()).responses[0]
            listed = tenants.ok(tenant, "ListSessions", pb.ListSessionsRequest(page_size=1000)).sessions
            queued = sum(each.queued_turn_count + (each.phase == pb.SESSION_PHASE_QUEUED) for each in listed)
            load = info.load
            assert (load.sessions, load.queued, load.running, load.watchers) == (len(tenant.sessions), queued, 1, 0)
            assert info.caller.tenant == tenant.name

        @rule(tenant=who)
        def name_the_other(self, tenant: Tenant) -> None:
            """Nobody acts for a tenant that is not its own, nor learns whether there is such a one."""
            request = pb.ListSessionsRequest()
            other = tenants.other(tenant).name
            foreign = self.act(tenant, "ListSessions", request, agent_tenant=other)
            absent = self.act(tenant, "ListSessions", request, agent_tenant=_twin(other))
            assert foreign.code == "PERMISSION_DENIED"
            assert foreign.data == absent.data.replace(_twin(other).encode(), other.encode())

        @rule(tenant=who, of_the_other=st.booleans())
        def cancel_many(self, tenant: Tenant, of_the_other: bool) -> None:
            """A filter reaches no further than the tenant."""
            wanted = pb.SessionFilter(labels=KIND)
            if of_the_other:
                wanted.created_by = tenants.other(tenant).principal
            self.act(tenant, "CancelSessions", pb.CancelSessionsRequest(filter=wanted, dry_run=True))
            self.act(tenant, "CancelSessions", pb.CancelSessionsRequest(filter=wanted, force=True))

        @rule(tenant=who)
        def clean_up(self, tenant: Tenant) -> None:
            """A clean-up deletes the tenant's own, and looks at no other."""
            rehearsal = pb.CleanupRequest(older_than={"seconds": 0}, dry_run=True)
            assert set(self.act(tenant, "Cleanup", rehearsal).responses[0].session_ids) <= tenant.sessions
            wanted = pb.CleanupRequest(older_than={"seconds": 0}, filter=pb.SessionFilter(labels=KIND))
            done = self.act(tenant, "Cleanup", wanted).responses[0]
            assert set(done.session_ids) <= tenant.sessions
            tenant.sessions -= set(done.session_ids)

        @rule(tenant=who, name=st.sampled_from(NAMES))
        def delete(self, tenant: Tenant, name: str) -> None:
            """A name that both have is deleted for one."""
            answer = self.act(tenant, "DeleteSession", pb.DeleteSessionRequest(session_id=name, force=True))
            assert answer.code == ("OK" if name in tenant.sessions else "NOT_FOUND")
            tenant.sessions.discard(name)

        @invariant()
        def nothing_of_the_other_has_changed(self) -> None:
            for tenant in tenants.tenants:
                now = tenants.records(tenant)
                assert now.keys() == tenant.sessions
                if self.acting is not None and tenant is not self.acting:
                    changed = now.items() ^ self.before[tenant.name].items()
                    assert not changed, f"{self.last} of {self.acting} changed {changed} of {tenant}"
                self.before[tenant.name] = now
            self.acting = None

        def teardown(self) -> None:
            """Leave what the tenants began with."""
            for tenant in tenants.tenants:
                mine = pb.SessionFilter(labels=KIND)
                tenants.call(tenant, "CancelSessions", pb.CancelSessionsRequest(filter=mine, force=True))
                tenants.ok(tenant, "Cleanup", pb.CleanupRequest(older_than={"seconds": 0}, filter=mine))
                tenant.sessions = set(tenants.records(tenant))
                tenant.ids["session"] = [each for each in tenant.ids["session"] if each in tenant.sessions]
                tenant.page_tokens.clear()

    return Isolation


def run(machine: Any, *, examples: int, steps: int, chance: int | None = None) -> None:
    """Run so many sequences of so many steps. Raises AssertionError with the steps that cross from one to the other."""
    found = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    if chance is not None:
        machine = seed(chance)(machine)
    run_state_machine_as_test(machine, settings=found)


def references() -> Iterator[str]:
    """Yield the fields of all requests that name something, as METHOD.PATH."""
    for method in pb.DESCRIPTOR.services_by_name["AgentService"].methods:
        yield from (f"{method.name}.{path}" for path in _named(method.input_type))


def _named(descriptor: Any, depth: int = 0) -> Iterator[str]:
    for each in descriptor.fields:
        if each.message_type is not None and depth < 3 and not each.message_type.full_name.startswith("google."):
            yield from (f"{each.name}.{path}" for path in _named(each.message_type, depth + 1))
        elif each.type == each.TYPE_STRING and re.search(r"(_id|_uuid|_token|_from|_by|^profile)$", each.name):
            yield each.name


def _standing(session: pb.Session) -> str:
    """Where a session stands. One that asks may still have something to say, and what that costs."""
    found = f"{pb.SessionPhase.Name(session.phase)} {session.turn_count} {session.queued_turn_count}"
    if session.labels["kind"] == "asking":
        return f"{found} {len(session.pending_interactions)}"
    return f"{found} {session.last_sequence} {session.change}"


def _set(message: Any, path: str, value: str) -> None:
    *inner, last = path.split(".")
    for name in inner:
        message = getattr(message, name)
    setattr(message, last, value)


def _twin(value: str) -> str:
    """An id of the same form and length that nobody has."""
    if UUID.fullmatch(value.encode()):
        return str(uuid4())
    return "".join("zyxwvut"[ord(each) % 7] if each.isalnum() else each for each in value)
