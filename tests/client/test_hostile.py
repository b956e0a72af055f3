"""Whatever a service sends in any string of the contract, no command writes to the terminal what it obeys or hides."""

from __future__ import annotations

import grpc
import pytest
from agentpb import agent_pb2 as pb

HOSTILE = "a\x1b]0;t\x07\x9b2J\r\u202eb\u200b\U000e0041p\u0430ypal\nc"
FORBIDDEN = set("\x1b\x07\x9b\r\u202e\u200b\U000e0041\u0430")

COMMANDS = [
    ["run", "x"],
    ["run", "-q", "x"],
    ["run", "--detach", "x"],
    ["watch", "s"],
    ["status", "s"],
    ["ls"],
    ["pending"],
    ["pending", "--full"],
    ["info"],
    ["cancel", "s"],
    ["cleanup"],
    ["rm", "s"],
    ["send", "s", "x"],
    ["interrupt", "s"],
    ["approve", "s", "--remember", "all"],
    ["approve", "s", "--remember", "7"],
    ["answer", "s", "--answer", "x=y"],
    ["export", "s"],
]


def _fill(message, depth=0):
    """Put hostile text into every string, lists and messages within included."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        value = getattr(message, field.name)
        if field.type == field.TYPE_STRING:
            value.append(HOSTILE) if field.is_repeated else setattr(message, field.name, HOSTILE)
        elif field.message_type is not None and depth < 3 and _is_ours(field):
            _fill(value.add() if field.is_repeated else value, depth + 1)
    return message


def _is_ours(field):
    return field.containing_oneof is None and not field.message_type.full_name.startswith("google.")


def _events():
    """Return an event of every kind, and a message of every kind of content."""
    for field in pb.SessionEvent.DESCRIPTOR.oneofs_by_name["payload"].fields:
        event = pb.SessionEvent(type=HOSTILE)
        payload = _fill(getattr(event, field.name))
        payload.SetInParent()
        if hasattr(payload, "content"):
            del payload.content[:]
            for block in pb.ContentBlock.DESCRIPTOR.oneofs_by_name["block"].fields:
                _fill(getattr(payload.content.add(), block.name))
        del event.truncated_fields[:]
        yield event
    for subtype in ("init", "permission_denied", "api_retry"):
        data = '{"mcp_servers": [{"name": "\\u001b]x", "status": "\\u202e"}], "tool_name": "\\u001b[m"}'
        yield pb.SessionEvent(system_message=pb.SystemMessage(subtype=subtype, data_json=data))


def _whole(message):
    """Say of a record that nothing of it was cut."""
    for field, value in message.ListFields():
        if field.name == "truncated_fields":
            message.ClearField("truncated_fields")
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                _whole(each)
    return message


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["PERMISSION", "QUESTION"])
async def test_no_command_shows_what_a_terminal_obeys(service, agentctl, arguments, kind):
    service.session.MergeFrom(_whole(_fill(pb.Session())))
    service.session.labels[HOSTILE] = HOSTILE
    service.session.pending_interactions[0].kind = pb.InteractionKind.Value(f"INTERACTION_KIND_{kind}")
    service.turn.MergeFrom(_whole(_fill(pb.Turn())))
    service.events(*map(_whole, _events()))
    service.end_turn()
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[service.session])]
    service.answers["GetServerInfo"] = _fill(pb.GetServerInfoResponse())
    service.answers["Cleanup"] = _fill(pb.CleanupResponse())
    service.answers["Cancel"] = pb.CancelResponse(session=service.session, already_at_rest=True)
    done = await agentctl(*arguments)
    assert not FORBIDDEN & set(done.out + done.err), done
    if arguments[0] in {"run", "watch", "status", "ls", "pending", "info", "export"} and "--detach" not in arguments:
        assert "\\x1b]0;t\\x07\\x9b2J\\x0d\\u202eb" in done.out, "it is shown, nothing is removed"


async def test_no_error_shows_what_a_terminal_obeys(service, agentctl, script):
    for reason in ("SESSION_BUSY", "QUEUE_FULL", "INVALID_FIELD", "UNHEARD_OF"):
        service.fail(
            "Execute",
            script.refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, HOSTILE, phase=HOSTILE, turn_id=HOSTILE),
        )
        done = await agentctl("run", "x")
        assert not FORBIDDEN & set(done.out + done.err), done
