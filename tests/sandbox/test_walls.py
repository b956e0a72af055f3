"""Agents behind walls: the real CLI's commands try 22 things, and what each level holds is written down here."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentpb import agent_pb2 as pb

from agent_service import server
from agent_service.agents.identities import Identities
from agent_service.agents.walls import Walls
from agent_service.policy import Grant
from agent_service.processes.cgroups import Cgroups, NoLimits, find_cgroups
from agent_service.processes.hidden import Hidden, hidden_places
from agent_service.processes.sandbox import Sandbox
from agent_service.processes.sandbox_choice import SandboxChoice
from agent_service.processes.view import Level, SandboxUnavailable
from tests.conftest import Service, start_service
from tests.interactions.conftest import start_asking
from tests.rpc import refused
from tests.sandbox.walls import bubblewrap, landlock

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROBES = Path(__file__).with_name("probes.sh")
APPROVE = Path(__file__).with_name("approve.py")
OWN = {"the service's port", "another port of the host", "write its own HOME", "the API key of its agent"}
"""What an agent has in every view with the host's network: a port that asks for a credential, and what is its own."""
REACHED = {
    "bubblewrap": OWN,
    "landlock": OWN | {"talk to a daemon's socket"},
    "run_as": OWN,
    "sealed": {"write its own HOME"},
}
"""Which of the probes succeed."""


@dataclass
class Host:
    """A service, another session that it has, and what else an agent might reach."""

    service: Service
    arguments: list[str]
    cwd: Path
    asking: tuple[str, pb.Interaction]
    """A session that asks, and what."""

    async def bash(self, *commands: str, **options: Any) -> list[str]:
        """Have an agent run shell commands; what each said."""
        prompt = "\n".join(f"bash: {command}" for command in commands)
        done = await self.service.run(prompt, options=pb.AgentOptions(allowed_tools=["Bash"], **options))
        events = await self.service.events(done.session_id)
        contents = [each for event in events if event.type == "message.user" for each in event.user_message.content]
        results = [each.tool_result for each in contents if each.HasField("tool_result")]
        assert len(results) == len(commands), done.turn.error
        return [result.text for result in results]


@asynccontextmanager
async def host(directory: Path, **settings: Any) -> AsyncIterator[Host]:
    """Run a service with a session in it that is not the one that probes."""
    cwd, data = directory / "cwd", directory / "data"
    cwd.mkdir()
    for file in (PROBES, APPROVE):
        shutil.copy(file, cwd)
    with ExitStack() as stack:
        other_port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        daemon = stack.enter_context(socket.socket(socket.AF_UNIX))
        place = Path("/run" if os.access("/run", os.W_OK) else directory, f"agent-service-test-{os.getpid()}.sock")
        daemon.bind(str(place))
        stack.callback(place.unlink)
        daemon.listen()
        async with start_service(data, **settings) as service:
            other = (
                await service.run("bash: echo mine >file", options=pb.AgentOptions(allowed_tools=["Bash"]))
            ).session
            temporary, at_home = (Path(each, f".agent-service-test-{os.getpid()}") for each in ("/tmp", Path.home()))
            for file in (temporary, at_home):
                file.write_text("x")
                stack.callback(file.unlink)
            port = service.running.address.rpartition(":")[2]
            own = str(data / "sessions" / other.workspace_id)
            code = str(Path(server.__file__).parent)
            last = [str(temporary), str(at_home), code, str(os.getpid()), "offline-"]
            asking = await start_asking(service, "bash: mkdir approved")
            yield Host(service, [port, str(other_port), str(data), own, str(place), *last], cwd, asking)


KINDS = ("bubblewrap", "landlock", "run_as", "sealed")


def use(service: Service, kind: str, **grant: Any) -> None:
    """Let further agents of a service be held in this way, under a grant. Skips what the host cannot do."""
    if kind == "run_as":
        try:
            Identities(service.data_dir / "users").of("auto", "")
        except SandboxUnavailable as error:
            pytest.skip(str(error))
    launch, policy = service.running.pool.launch, service.running.pool.policy
    hidden = hidden_places([service.data_dir, Path(os.environ["XDG_RUNTIME_DIR"])])
    level: Level = "sealed" if kind == "sealed" else "off" if kind == "off" else "workspace"
    passed: tuple[tuple[Level, Sandbox], ...] = ()
    if kind != "off":
        sandbox = landlock(hidden) if kind == "landlock" else bubblewrap(hidden, own_processes=False)
        passed = ((level, sandbox),)
    launch.walls = Walls(SandboxChoice(level, passed), data_dir=service.data_dir, cgroups=_cgroups())
    grant = {"run_as": "auto" if kind == "run_as" else None, **grant}
    launch._grant = policy.grant = lambda tenant: Grant(tenant=tenant, **grant)


def _cgroups() -> Cgroups | str:
    try:
        return find_cgroups()
    except NoLimits as error:
        return str(error)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """A host for all tests of this file; each says how its agents are held. The gateway is there for sealed ones."""
    bubblewrap(Hidden())
    async with host(tmp_path_factory.mktemp("walls"), sandbox="sealed") as running:
        yield running


def approving(here: Host) -> str:
    """Return the command that tries to approve what the session that asks has asked."""
    asks = [here.asking[0], here.asking[1].interaction_id]
    places = [str(here.service.data_dir), os.environ["XDG_RUNTIME_DIR"]]
    return shlex.join([sys.executable, "approve.py", here.service.running.address, *places, *asks])


@pytest.mark.parametrize("kind", KINDS)
async def test_of_22_probes_and_20_approvals_an_agent_reaches_what_is_its_own(here: Host, kind: str) -> None:
    use(here.service, kind)
    # A server that the options name is shown with all that its command line names, also to a sealed agent.
    programs = pb.McpServer(stdio=pb.McpStdioServer(command=sys.executable, args=["-c", "", *sys.path]))
    probes, approvals = await here.bash(
        shlex.join(["bash", "probes.sh", *here.arguments]),
        approving(here),
        cwd=str(here.cwd),
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        mcp_servers={"programs": programs},
    )
    found = {name: verdict == "yes" for name, _, verdict in (line.rpartition(": ") for line in probes.splitlines())}
    assert len(found) == 22
    assert {name for name, reached in found.items() if reached} == REACHED[kind]
    assert approvals.strip() == "0 of 20"


async def test_without_walls_the_same_attempts_approve(here: Host) -> None:
    use(here.service, "off")
    [said] = await here.bash(approving(here), cwd=str(here.cwd), env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert said.strip() == "20 of 20"


async def test_a_session_and_the_service_say_what_is_around_agents(here: Host) -> None:
    info = await here.service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.sandbox == "sealed (bubblewrap)"
    use(here.service, "bubblewrap")
    assert (await here.service.run("say: hi")).session.sandbox == "workspace (bubblewrap)"


async def test_walls_that_this_host_has_not_refuse_the_request(here: Host) -> None:
    use(here.service, "landlock", sandbox="sealed")
    refusal = await refused(here.service.execute("say: hi"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_UNAVAILABLE")
    use(here.service, "bubblewrap", run_as="nobody-of-this-name")
    refusal = await refused(here.service.execute("say: hi"))
    assert refusal.reason == "SANDBOX_UNAVAILABLE"
    assert ("nobody-of-this-name" if os.geteuid() == 0 else "root") in refusal.text


async def test_an_agent_can_neither_change_nor_make_the_settings_of_its_directory(here: Host, tmp_path: Path) -> None:
    use(here.service, "bubblewrap")
    (tmp_path / "attack").write_text(
        "mv .claude aside; rm -rf .claude/settings.json; echo x >.claude/settings.json\n"
        "ln -sf x .claude/settings.local.json\n"
        "mkdir -p .claude/worktrees && echo made\n"
    )
    [said] = await here.bash("sh attack 2>/dev/null", cwd=str(tmp_path))
    assert said.split() == ["made"]
    assert {path.name: path.read_text() for path in (tmp_path / ".claude").glob("*.json")} == {
        "settings.json": "{}\n",
        "settings.local.json": "{}\n",
    }


async def test_the_clis_own_sandbox_works_inside_the_walls(here: Host) -> None:
    use(here.service, "bubblewrap")
    if shutil.which("socat") is None:
        pytest.skip("the CLI's own sandbox needs socat")
    sandbox = pb.Sandbox(enabled=True, fail_if_unavailable=True)
    [said] = await here.bash("touch /usr/x 2>&1 || echo held; echo inside", sandbox=sandbox)
    assert said.split()[-2:] == ["held", "inside"]


async def test_a_tool_that_takes_too_much_fails_and_its_agent_goes_on(here: Host) -> None:
    use(here.service, "bubblewrap", memory=700 << 20, processes=96)
    if isinstance(_cgroups(), str):
        pytest.skip(str(_cgroups()))
    said = await here.bash(
        "sh -c 'for each in $(seq 200); do sleep 1 & done'",
        "python3 -c 'print(len(bytearray(2 << 30)))'; echo $?",
        "echo alive",
    )
    assert said[-1] == "alive"
