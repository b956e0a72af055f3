"""Policy: asks the grants in force about requests, at each of the places where a request may be refused.

The order is: what was given (`check_given`, nothing of the host is looked at), then the merged options
(`check_merged`), then again at the start of the turn (`problem`), because the rules may have changed since.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.errors import FieldViolation
from agent_service.options import CLEAR, quoted
from agent_service.policy.ceilings import Violation, beyond, violation
from agent_service.policy.closed import closed_directories
from agent_service.policy.defaults import fill, without_model
from agent_service.policy.durations import Bounds, bounded
from agent_service.policy.grant import Grant, SandboxLevel
from agent_service.policy.profiles import Profile, Profiles, applied, set_names
from agent_service.policy.requests import beyond_answer, beyond_attachments, beyond_request
from agent_service.policy.tables import matches, table_json, walled

MAX_REMEMBERED = 10_000
"""Tenants whose grants are kept."""


class Policy:
    """Holds requests against what their tenants may ask for."""

    def __init__(
        self,
        grant: Callable[[str], Grant] = Grant.dev,
        *,
        version: Callable[[], str] = str,
        profiles: Profiles | None = None,
        default_model: str = "",
        sandbox: SandboxLevel | None = None,
        bounds: Bounds | None = None,
        data_dir: Path | None = None,
    ) -> None:
        """Ask `grant` what a tenant may; `version` is that of the access file.

        `default_model` and `bounds` hold for requests that say nothing, `sandbox` for grants that do; `data_dir` is
        closed to everybody.
        """
        self._grant = grant
        self._sandbox = sandbox
        self._in_walls: dict[str, tuple[Grant, Grant]] = {}
        self._version = version
        self._profiles = profiles or Profiles()
        self._default_model = default_model
        self._bounds = bounds or Bounds()
        self._data_dir = os.path.realpath(data_dir) if data_dir is not None else ""

    def grant(self, tenant: str) -> Grant:
        """Return what a tenant may, with the walls that its agents have."""
        held = self._grant(tenant)
        if self._sandbox is None or not held.limited:
            return held
        if (known := self._in_walls.get(tenant)) is not None and known[0] is held:
            return known[1]
        if len(self._in_walls) >= MAX_REMEMBERED:  # tenants may be named by tokens
            self._in_walls.clear()
        self._in_walls[tenant] = held, walled(held, self._sandbox)
        return self._in_walls[tenant][1]

    @property
    def version(self) -> str:
        """The version of the access file in force; empty without one."""
        return self._version()

    # ------------------------------------------------------------------------------------------------- what was given

    def check_given(self, request: pb.ExecuteRequest, tenant: str) -> None:
        """Hold a request against the grant before anything is looked up.

        Raises OptionNotAllowed, PathNotAllowed, ProfileNotFound, InvalidField.
        """
        grant = self.grant(tenant)
        found = []
        if request.profile:
            found += _locked(request, self._profile(request.profile, grant))
        if grant.limited:
            found += beyond_request(request, grant)
            found += beyond(request.options, grant, resolve=False)
        self._refuse(found, grant)
        self._check_open(request.options, grant)

    def check_message(self, request: pb.SendMessageRequest, tenant: str) -> None:
        """Hold a message's attachments against the grant. Raises OptionNotAllowed."""
        grant = self.grant(tenant)
        if grant.limited:
            self._refuse(list(beyond_attachments(request.attachments, grant)), grant)

    def check_answer(self, request: pb.RespondToInteractionRequest, tenant: str) -> None:
        """Hold the rules of an answer against the grant. Raises OptionNotAllowed, PathNotAllowed."""
        grant = self.grant(tenant)
        if grant.limited and request.allow.updated_permissions:
            path = "allow.updated_permissions"
            self._refuse(beyond_answer(request.allow.updated_permissions, grant, path, resolve=True), grant)

    # ------------------------------------------------------------------------------------------------ what will run

    def prepared(self, request: pb.ExecuteRequest, record: pb.Session, tenant: str) -> pb.ExecuteRequest:
        """The request as it will run: with its profile's options and the grant's durations. `record` is the session's.

        Raises OptionNotAllowed, ProfileNotFound.
        """
        grant = self.grant(tenant)
        if not request.profile and record.profile:
            self._refuse(_locked(request, self._profile(record.profile, grant)), grant)
        self._refuse(self._of_profile(request.profile or record.profile, grant), grant)
        if not request.profile and not grant.limited:
            return request
        prepared = pb.ExecuteRequest()
        prepared.CopyFrom(request)
        if request.profile:
            profile, before = self._profile(request.profile, grant), self._profiles.get(record.profile)
            applied(prepared, profile, before, record)
        bounded(prepared, grant, self._bounds)
        return prepared

    def check_merged(
        self, request: pb.ExecuteRequest, options: pb.AgentOptions, record: pb.Session, tenant: str
    ) -> None:
        """Hold the options of a turn of `request`, as merged, against the grant.

        Raises OptionNotAllowed, PathNotAllowed, InvalidField.
        """
        grant = self.grant(tenant)
        if grant.limited:
            remembered = [] if CLEAR in request.clear_options else record.remembered_permissions
            self._refuse(self._beyond(options, remembered, grant), grant)
        self._check_open(options, grant)

    def problem(self, request: pb.ExecuteRequest, options: pb.AgentOptions, record: pb.Session) -> str:
        """Why a turn that was accepted may not begin under the rules as they are now; empty when it may."""
        grant = self.grant(record.owner)
        found: list[Violation | FieldViolation] = [*_unknown_servers(options, grant)]
        found += closed_directories(options, self._data_dir)
        if grant.limited:
            found += self._beyond(options, record.remembered_permissions, grant)
            found += self._of_profile(record.profile, grant)
        if not request.profile and record.profile and (profile := self._profiles.get(record.profile)) is not None:
            found += _locked(request, profile)
        return "; ".join(f"{each.field}: {each.description}" for each in found)

    def in_force(self, options: pb.AgentOptions, tenant: str) -> pb.AgentOptions:
        """The options as an agent gets them: with the grant's defaults, denials and servers."""
        grant = self.grant(tenant)
        return fill(options, grant, self._default_model)[0] if grant.limited else options

    def notes(self, request: pb.ExecuteRequest, options: pb.AgentOptions, tenant: str) -> list[str]:
        """What the grant filled in, as sentences for the caller."""
        grant = self.grant(tenant)
        if not grant.limited:
            return []
        copy = pb.ExecuteRequest()
        copy.CopyFrom(request)
        return [*bounded(copy, grant, self._bounds), *fill(options, grant, self._default_model)[1]]

    def ceilings_json(self, tenant: str) -> str:
        """The tenant's table as it holds, as a JSON object; empty without an access file."""
        grant = self.grant(tenant)
        return table_json(grant, self._names(grant)) if grant.limited else ""

    # ----------------------------------------------------------------------------------------------------------------

    def _check_open(self, options: pb.AgentOptions, grant: Grant) -> None:
        if found := [*_unknown_servers(options, grant), *closed_directories(options, self._data_dir)]:
            raise errors.InvalidField(found)

    def _beyond(
        self, options: pb.AgentOptions, remembered: Sequence[pb.PermissionUpdate], grant: Grant
    ) -> list[Violation]:
        found = beyond(options, grant, resolve=True) + without_model(options, grant, self._default_model)
        return found + (beyond_answer(remembered, grant, CLEAR, resolve=True) if remembered else [])

    def _of_profile(self, name: str, grant: Grant) -> list[Violation]:
        """A violation when a session needs a profile and has none, or has one that the tenant may not use."""
        key = "profiles" if name else "require_profile"
        if (not name and not grant.require_profile) or (name and _may_use(name, grant)):
            return []
        there = f"there are {', '.join(self._names(grant)) or 'none'}"
        return [
            violation(grant, "profile", f"{name!r} is not allowed; {there}" if name else f"must be set; {there}", key)
        ]

    def _names(self, grant: Grant) -> list[str]:
        return [name for name in self._profiles.names() if _may_use(name, grant)]

    def _profile(self, name: str, grant: Grant) -> Profile:
        profile = self._profiles.get(name)
        if profile is None or not _may_use(name, grant):
            names = ", ".join(self._names(grant)) or "none"
            raise errors.ProfileNotFound(
                f"there is no profile {name[:128]!r}; there are {names}",
                resource=name[:128],
                metadata={"profile": name[:128]},
            )
        return profile

    def _refuse(self, found: Sequence[Violation], grant: Grant) -> None:
        if not found:
            return
        violations = [FieldViolation(each.field, each.description) for each in found]
        tenant, rule, policy = grant.tenant, found[0].rule, self._version()
        if all(each.is_path for each in found):
            raise errors.PathNotAllowed(violations, metadata={"tenant": tenant, "rule": rule, "policy": policy})
        raise errors.OptionNotAllowed(violations, metadata={"tenant": tenant, "rule": rule, "policy": policy})


def _may_use(profile: str, grant: Grant) -> bool:
    return grant.profiles is None or matches(profile, grant.profiles)


def _locked(request: pb.ExecuteRequest, profile: Profile) -> list[Violation]:
    """What a request sets or clears although its profile keeps it."""
    rule = f"profile.{profile.name}.locked"
    return [
        Violation(path, f"{name} is locked by profile {profile.name} ({rule})", rule)
        for path, name in (set_names(request, profile.locked) if profile.locked else ())
    ]


def _unknown_servers(options: pb.AgentOptions, grant: Grant) -> Iterable[FieldViolation]:
    """MCP servers that a request takes from the operator where nobody has defined any."""
    if grant.limited:
        return
    for name, server in options.mcp_servers.items():
        if server.configured:
            field = f"options.mcp_servers[{quoted(name)}].configured"
            yield FieldViolation(field, "must name an MCP server of the operator's: there is none")
