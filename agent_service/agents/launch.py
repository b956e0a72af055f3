"""Launch: what an agent is started with: its options, its directories, its environment, the grant of its tenant.

Every layer around an agent hooks in here: what the CLI is told (`spec`), what it finds in its environment
(`_environment_of`), and which warm agents a change makes obsolete (`made_with`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb
from claude_agent_sdk import ClaudeAgentOptions

from agent_service import options as translate
from agent_service.agents.agent import AgentSpec
from agent_service.agents.demand import Profile
from agent_service.agents.outlets import Outlet, Outlets
from agent_service.agents.programs import CREDENTIAL_FILES
from agent_service.agents.sdk import bundled_cli
from agent_service.agents.secrets import Secrets
from agent_service.agents.walls import Walls
from agent_service.agents.workspace import Directories, Workspaces
from agent_service.options import may_choose_mode
from agent_service.policy import MANAGED_SETTINGS, Grant, managed_settings


class Resume(NamedTuple):
    """The conversation that an agent continues: the SDK's id, whether as a fork, and up to which message."""

    agent_session_id: str
    fork: bool = False
    at_message_uuid: str = ""


class Launch:
    """Makes the start parameters of agents."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        environment: Mapping[str, str],
        marker: str,
        default_model: str,
        secrets: Secrets | None = None,
        grant: Callable[[str], Grant] = Grant.dev,
        outlets: Outlets | None = None,
        walls: Walls | None = None,
    ) -> None:
        """Start agents in the directories of `workspaces`, with `environment` and each session's own variables.

        The markers of their process trees begin with `marker`; `grant` returns what a tenant may ask for, `walls` are
        around each of them. Values that are names of `secrets` get their values here. `outlets` are the ways out of
        agents that have no network, or no credentials.
        """
        self.workspaces = workspaces
        self._environment = dict(environment)
        self._marker = marker
        self._default_model = default_model
        self._grant = grant
        self.secrets = secrets or Secrets(None)
        self._outlets = outlets
        self.walls = walls or Walls()

    def spec(self, session: pb.Session, options: pb.AgentOptions, resume: Resume | None) -> AgentSpec:
        """Return the start parameters of an agent for this session. Writes files; call it off the loop's hot path.

        Raises AgentFailed when a secret that the options name has gone.
        """
        key = self.key(options)
        options, masks = self.secrets.resolve(options, session.owner)
        grant, directories = self._grant(session.owner), self.workspaces.make(session)
        options = self.walls.inside(options, grant)
        marker = f"{self._marker}:{session.agent_session_id}"
        sdk_options = self._sdk_options(session, options, resume, directories, grant)
        environment = self._environment_of(options, directories)
        wall = self.walls.around(options, directories, grant, environment, marker)
        environment |= wall.environment
        outlet = self._outlet(grant, directories)
        if outlet is not None:
            environment = outlet.environment(environment)
            wall.let_out(outlet.sockets, outlet.programs)
        return AgentSpec(
            options=sdk_options,
            environment=environment,
            variables=dict(options.env),
            directories=directories,
            wall=wall,
            grant=grant,
            key=key,
            asks=options.interactions.permissions or options.interactions.questions,
            marker=marker,
            masks=masks,
            outlet=outlet,
        )

    def _outlet(self, grant: Grant, directories: Directories) -> Outlet | None:
        """Make the ways out of an agent's walls, the last of what can fail: from here on, its end closes them."""
        if self._outlets is None:
            return None
        return self._outlets.make(directories.tmp.name, grant.egress, network=self.walls.has_network(grant))

    def _sdk_options(
        self,
        session: pb.Session,
        options: pb.AgentOptions,
        resume: Resume | None,
        directories: Directories,
        grant: Grant,
    ) -> ClaudeAgentOptions:
        sdk = translate.to_sdk(
            options,
            cwd=directories.cwd,
            env={},
            scratch=directories.scratch,
            default_model=self._default_model or None,
        )
        if managed := managed_settings(grant, options, self.model(options) or ""):
            sdk = replace(sdk, extra_args={**sdk.extra_args, MANAGED_SETTINGS: managed})
        if resume is None:
            return replace(sdk, session_id=session.agent_session_id)
        sdk = replace(sdk, resume=resume.agent_session_id)
        if resume.fork:
            sdk = replace(sdk, fork_session=True, session_id=session.agent_session_id)
        if sdk.permission_mode is None and not may_choose_mode(options):
            sdk = replace(sdk, permission_mode="default")  # the agent would return to the mode its transcript ends in
        if resume.at_message_uuid:
            sdk = replace(sdk, resume_session_at=resume.at_message_uuid)
        return sdk

    def _environment_of(self, options: pb.AgentOptions, directories: Directories) -> dict[str, str]:
        environment = {
            **self._environment,
            "HOME": str(directories.home),
            "CLAUDE_CONFIG_DIR": str(directories.config),
            "TMPDIR": str(directories.tmp),
            "CLAUDE_CODE_TMPDIR": str(directories.tmp),
            "PWD": str(directories.cwd),
            **translate.ALONE,
        }
        if not options.file_mentions:
            # The agent reads every "@path" of a prompt into it, whatever its tools are and with nobody asked.
            environment["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] = "1"
        if options.enable_file_checkpointing:
            environment["CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING"] = "true"
        if options.client_app:
            environment["CLAUDE_AGENT_SDK_CLIENT_APP"] = options.client_app
        if options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS and os.geteuid() == 0:
            # The CLI refuses this mode to root unless it is told that the host is expendable.
            environment["IS_SANDBOX"] = "1"
        return environment

    def model(self, options: pb.AgentOptions) -> str | None:
        """Return the model that agents are told for these options; None leaves it to the agent."""
        return options.model or self._default_model or None

    @staticmethod
    def key(options: pb.AgentOptions) -> str:
        """Return a key that is equal for options which one connected agent can serve in turn.

        Model, permission mode and effort are not part of it: a connected agent can change them.
        """
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        # A process that was not started for it refuses to bypass permissions; the other modes can be changed.
        bypass = options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS
        for name in ("model", "permission_mode", "effort", "resume_at_message_uuid"):
            fixed.ClearField(name)
        # How long people may take to answer is the service's to know; whether they are asked is the agent's.
        fixed.interactions.ClearField("timeout")
        fixed.interactions.ClearField("on_timeout")
        if not fixed.interactions.ListFields():
            fixed.ClearField("interactions")
        return f"{bypass:d}" + fixed.SerializeToString(deterministic=True).hex()

    def profile(self, options: pb.AgentOptions, owner: str) -> Profile | None:
        """Return the profile of an agent for these options; None when no agent should be kept warm for them."""
        if _is_perishable(options):
            return None
        # A connected agent can be told another model or mode, but not to return to what it would have chosen itself.
        # Another effort takes it longer to change to than the wait for it is worth.
        named = f"{bool(options.model or self._default_model):d}{bool(options.permission_mode):d}{options.effort}"
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        return Profile(owner, named + self.key(options), fixed)

    def made_with(self, profile: Profile) -> object:
        """Fingerprint what an agent reads at its start beside its parameters: the CLI, files, secrets, the grant.

        A warm agent of another fingerprint is retired.
        """
        config = self.workspaces.tenant_config(profile.owner)
        named = [self._environment[name] for name in CREDENTIAL_FILES if name in self._environment]
        files: list[str | Path] = [_cli(), config / ".credentials.json", config / "settings.json", *named]
        secrets = self.secrets.versions(profile.options, profile.owner)
        return self._grant(profile.owner), tuple(_version(file) for file in files), secrets


@functools.cache
def _cli() -> str:
    return bundled_cli()


def _is_perishable(options: pb.AgentOptions) -> bool:
    """Return whether an agent reads at its start what may change soon: settings, plugins, the state of a repository."""
    if options.setting_sources or options.plugins or options.resume_at_message_uuid:
        return True
    cwd = Path(options.cwd) if options.cwd else None
    return cwd is not None and any(os.path.exists(folder / ".git") for folder in (cwd, *cwd.parents))


def _version(file: str | Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
