"""The table of a session's moves: it is whole, docs/architecture.md shows it, and a session makes no other move."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from agentpb import agent_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from agent_service.ledger.commits import AT_REST
from agent_service.ledger.journal import Journal
from agent_service.session.states import MOVES, STATE_OF, Phase, diagram, move, table
from tests.conftest import Service
from tests.test_house import ROOT

PHASES = list(pb.SessionPhase.values())
RESTING = {phase for phase, state in STATE_OF.items() if state in AT_REST}


def test_every_phase_of_the_contract_has_its_state_and_its_moves() -> None:
    assert set(STATE_OF) == set(MOVES) == set(PHASES)
    assert set(STATE_OF.values()) == set(pb.SessionState.values())


def test_the_contract_says_the_same_state_of_each_phase() -> None:
    comments = re.findall(r"// (\w+): [^\n]*\n  (SESSION_PHASE_\w+) =", (ROOT / "proto" / "agent.proto").read_text())
    assert {name: state for state, name in comments} == {
        pb.SessionPhase.Name(phase): pb.SessionState.Name(state).removeprefix("SESSION_STATE_")
        for phase, state in STATE_OF.items()
        if state != pb.SESSION_STATE_UNSPECIFIED
    }


def test_every_phase_can_be_reached_and_leads_to_rest() -> None:
    assert reached([pb.SESSION_PHASE_UNSPECIFIED]) == set(PHASES)
    for phase in PHASES:
        assert reached([phase]) & RESTING


def test_a_session_at_rest_only_begins_anew_or_gives_up_its_process() -> None:
    for phase in RESTING:
        assert MOVES[phase] - {pb.SESSION_PHASE_QUEUED} <= {pb.SESSION_PHASE_DORMANT}


def test_architecture_md_shows_the_table_and_its_diagram() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    shown = text.partition("<!-- states:begin -->")[2].partition("<!-- states:end -->")[0].strip()
    expected = f"{diagram()}\n\n{table()}"
    assert shown == expected, f"put this between the markers in docs/architecture.md:\n\n{expected}"


async def test_a_move_that_is_not_in_the_table_is_refused_and_leaves_no_trace(service: Service) -> None:
    journal = new_journal(service)
    for phase in (pb.SESSION_PHASE_QUEUED, pb.SESSION_PHASE_STARTING):
        move(journal, phase)
    with pytest.raises(AssertionError, match="STARTING to IDLE is not a move of a session"):
        move(journal, pb.SESSION_PHASE_IDLE)
    assert (journal.record.phase, journal.record.last_sequence) == (pb.SESSION_PHASE_STARTING, 2)


async def test_a_session_that_is_told_to_stay_where_it_is_does_not_move(service: Service) -> None:
    journal = new_journal(service)
    for _ in range(2):
        move(journal, pb.SESSION_PHASE_QUEUED)
    assert journal.record.last_sequence == 1


@given(st.data())
def test_on_every_way_through_the_table_the_record_says_where_the_session_is(data: st.DataObject) -> None:
    journal = Journal(pb.Session(session_id="s"), NoLedger(), new=True)  # type: ignore[arg-type]
    for _ in range(data.draw(st.integers(1, 12))):
        before = pb.Session.FromString(journal.record.SerializeToString())
        phase = data.draw(st.sampled_from(sorted(MOVES[before.phase])))
        failure = pb.SessionError(reason="X") if STATE_OF[phase] == pb.SESSION_STATE_ERROR else None
        move(journal, phase, error=failure)
        record = journal.record
        assert (record.phase, record.state) == (phase, STATE_OF[phase])
        assert record.last_sequence == before.last_sequence + 1
        assert record.HasField("rest_time") == (phase in RESTING)
        assert record.HasField("error") == (record.state == pb.SESSION_STATE_ERROR)


class NoLedger:
    """As much of a ledger as a journal needs that never commits."""

    def tail(self, session_id: str) -> None:
        """None is read."""


def new_journal(service: Service) -> Journal:
    """A journal of a session that is not stored."""
    return Journal(pb.Session(session_id="nobody"), service.running.ledger, new=True)


def reached(begin: Iterable[Phase]) -> set[Phase]:
    """All phases that can follow, in one move or in many, and those to begin with."""
    found, ahead = set(begin), list(begin)
    while ahead:
        new = MOVES[ahead.pop()] - found
        found |= new
        ahead += new
    return found


@pytest.mark.parametrize("state", [pb.SESSION_STATE_PENDING, pb.SESSION_STATE_RUNNING])
def test_a_start_of_the_service_finds_a_move_for_every_session_that_was_left_at_work(state: int) -> None:
    left = [phase for phase, belongs in STATE_OF.items() if belongs == state]
    for phase in left:
        assert pb.SESSION_PHASE_INTERRUPTED in MOVES[phase]
        assert phase == pb.SESSION_PHASE_QUEUED or pb.SESSION_PHASE_QUEUED in MOVES[phase]
        if phase not in (
            pb.SESSION_PHASE_RECOVERING,
            pb.SESSION_PHASE_BACKGROUND,
        ):  # it has no turn
            assert pb.SESSION_PHASE_RECOVERING in MOVES[phase]
