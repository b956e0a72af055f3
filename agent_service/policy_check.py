"""PolicyCheck: what a running service would say of a request under an access file, without one: for the file's CI."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agentpb import agent_pb2 as pb
from google.protobuf import json_format

from agent_service import errors
from agent_service.access import AccessFileInvalid, Rules, expand, read_rules
from agent_service.api.validation import check
from agent_service.policy import Policy, Profiles
from agent_service.session.turn_options import resolve_options

EXECUTE = "Execute"


class BadQuestion(Exception):
    """The question cannot be asked: the text says what is wrong with the file, the name or the request."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a request."""

    tenant: str
    reason: str = ""
    """The reason of the refusal; empty when the request is allowed."""
    lines: tuple[str, ...] = ()
    """What is refused, field by field; of an allowed request, what is filled in."""


def ask(file: Path, name: str, tenant: str, request_json: str, profiles: Path | None) -> Verdict:
    """Hold an Execute, as JSON, against an access file, as the principal or the tenant `name`. Raises BadQuestion.

    Nothing is looked up: the request is taken for a new session's. Of the host only symbolic links are looked at.
    """
    request = _request(request_json)
    try:
        rules, known = read_rules(file, {}), Profiles(profiles)
    except (AccessFileInvalid, errors.CannotServe) as problem:
        raise BadQuestion(str(problem)) from problem
    tenant, may_call = _tenant(rules, name, tenant)
    if not may_call:
        return Verdict(tenant, "RPC_NOT_ALLOWED", (f"{name} may not call {EXECUTE}",))
    policy = Policy(rules.grant, version=lambda: rules.version, profiles=known)
    try:
        check(request)
        policy.check_given(request, tenant)
        prepared = policy.prepared(request, pb.Session(), tenant)
        options = resolve_options(pb.Session(), prepared)
        policy.check_merged(prepared, options, pb.Session(), tenant)
    except errors.FieldError as refused:
        return Verdict(tenant, refused.reason, tuple(f"{field}: {text}" for field, text in refused.violations))
    except errors.RequestError as refused:
        return Verdict(tenant, refused.reason, (refused.message,))
    return Verdict(tenant, lines=tuple(policy.notes(request, options, tenant)))


def _request(text: str) -> pb.ExecuteRequest:
    try:
        given = json.loads(text)
        if isinstance(given, dict) and "options" not in given and "prompt" not in given:
            given = {"options": given}  # only options, as most of a policy is about them
        request = json_format.ParseDict(given, pb.ExecuteRequest())
    except (ValueError, TypeError, AttributeError, json_format.ParseError) as problem:
        raise BadQuestion(f"the request is no ExecuteRequest in JSON: {problem}") from problem
    request.prompt = request.prompt or "a prompt"
    return request


def _tenant(rules: Rules, name: str, wanted: str) -> tuple[str, bool]:
    """The tenant of a call as `name`, and whether it may call Execute."""
    assert rules.document is not None
    principal = rules.document.principal.get(name)
    if principal is None:
        if wanted or not rules.is_tenant(name):
            raise BadQuestion(f"the access file has no principal {name!r}, and no tenant of this name may be served")
        return name, True
    tenant = wanted or principal.tenant
    allowed = {principal.tenant, *principal.tenants}
    if (tenant not in allowed and "*" not in allowed) or not rules.is_tenant(tenant):
        raise BadQuestion(f"{name} may not call for the tenant {tenant!r}")
    return tenant, principal.rpcs is None or EXECUTE in expand(principal.rpcs)
