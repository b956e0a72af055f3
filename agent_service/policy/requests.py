"""Ceilings of what requests have besides options: attachments, durations, answers to interactions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentpb import agent_pb2 as pb

from agent_service.options import seconds_of
from agent_service.policy.ceilings import Violation, host_of, is_below, is_host, violation
from agent_service.policy.grant import Grant
from agent_service.policy.tables import matches
from agent_service.policy.units import duration_text
from agent_service.policy.words import mode_of_agent

DURATIONS = (("execution_timeout", "max_execution"), ("queue_timeout", "max_queue"), ("ttl", "max_ttl"))
"""Duration of an ExecuteRequest → what bounds it."""


def beyond_request(request: pb.ExecuteRequest, grant: Grant) -> Iterator[Violation]:
    """Every field of an Execute, besides its options and its profile, that goes beyond the grant."""
    yield from beyond_attachments(request.attachments, grant)
    for name, ceiling in DURATIONS:
        most = getattr(grant, ceiling)
        if most is not None and request.HasField(name):  # type: ignore[arg-type]
            given = seconds_of(getattr(request, name))
            if given > most or (not given and name != "ttl"):  # 0 is without end, but a ttl of 0 is none at all
                yield violation(grant, name, f"must be above 0 and at most {duration_text(most)}", ceiling)


def beyond_attachments(attachments: Iterable[pb.Attachment], grant: Grant) -> Iterator[Violation]:
    """Every attachment that would be fetched from a host that is not allowed."""
    hosts = grant.attachment_hosts
    if hosts is None:
        return
    for index, attachment in enumerate(attachments):
        if attachment.url and not is_host(host_of(attachment.url), hosts):
            accepted = f"allowed are {', '.join(hosts)}" if hosts else "send the data itself"
            yield violation(
                grant, f"attachments[{index}].url", f"its host is not allowed; {accepted}", "attachment_hosts"
            )


def beyond_answer(updates: Iterable[pb.PermissionUpdate], grant: Grant, path: str, *, resolve: bool) -> list[Violation]:
    """Every mode and directory beyond the grant in permission updates of an answer, or that earlier ones made."""
    found = []
    modes, roots = grant.permission_modes, grant.cwd_roots
    for index, update in enumerate(updates):
        mode = mode_of_agent(update.mode)
        if update.type == "setMode" and modes is not None and not matches(mode, modes):
            text = f"{mode!r} is not allowed; allowed are {', '.join(modes)}"
            found.append(violation(grant, f"{path}[{index}].mode", text, "permission_modes"))
        for at, directory in enumerate(update.directories if update.type == "addDirectories" else ()):
            if roots is not None and not is_below(directory, roots, resolve=resolve):
                text = f"must be below {' or '.join(roots)}" if roots else "no directory is open to callers"
                found.append(violation(grant, f"{path}[{index}].directories[{at}]", text, "cwd_roots"))
    return found
