"""Agents behind walls: the real CLI's commands try 22 things, and what each level holds is written down here."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import server
from agent_service.agents.walls import Walls
from agent_service.processes.hidden import hidden_places
from agent_service.processes.sandbox import Sandbox
from agent_service.processes.sandbox_choice import SandboxChoice
from tests.conftest import Service, start_service
from tests.sandbox.walls import bubblewrap, landlock

PROBES = Path(__file__).with_name("probes.sh")
OWN = {"the service's port", "another port of the host", "write its own HOME", "the API key of its agent"}
"""What an agent has in every view with the host's network: a port that asks for a credential, and what is its own."""
REACHED = {
    "bubblewrap": OWN,
    "landlock": OWN | {"talk to a daemon's socket"},
    "run_as": OWN,
}
"""Which of the probes succeed."""


@dataclass
class Host:
    """A service, another session that it has, and what else an agent might reach."""

    service: Service
    arguments: list[str]
    cwd: Path

    async def probe(self, **options: Any) -> dict[str, bool]:
        """Try everything from a command of an agent's; whether each succeeded."""
        command = shlex.join(["bash", "probes.sh", *self.arguments])
        said = await self.bash(command, cwd=str(self.cwd), **options)
        return {name: verdict == "yes" for name, _, verdict in (line.rpartition(": ") for line in said.splitlines())}

    async def bash(self, *commands: str, **options: Any) -> str:
        """Have an agent run shell commands; what the last one said."""
        prompt = "\n".join(f"bash: {command}" for command in commands)
        done = await self.service.run(prompt, options=pb.AgentOptions(allowed_tools=["Bash"], **options))
        events = await self.service.events(done.session_id)
        contents = [each for event in events if event.type == "message.user" for each in event.user_message.content]
        results = [each.tool_result for each in contents if each.HasField("tool_result")]
        assert len(results) == len(commands), done.turn.error
        return results[-1].text


@asynccontextmanager
async def host(directory: Path, **settings: Any) -> AsyncIterator[Host]:
    """Run a service with a session in it that is not the one that probes."""
    cwd, data = directory / "cwd", directory / "data"
    cwd.mkdir()
    shutil.copy(PROBES, cwd)
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
            (data / "local.token").write_text("token")  # as `--auth local` puts it there
            code = str(Path(server.__file__).parent)
            last = [str(temporary), str(at_home), code, str(os.getpid())]
            yield Host(service, [port, str(other_port), str(data), own, str(place), *last], cwd)


def use(service: Service, sandbox: Sandbox, **grant: Any) -> None:
    """Let further agents of a service be held by this sandbox, under a grant."""
    launch, policy = service.running.pool.launch, service.running.pool.policy
    launch.walls = Walls(SandboxChoice("workspace", (("workspace", sandbox),)), data_dir=service.data_dir)
    before = policy.grant
    policy.grant = launch._grant = lambda tenant: before(tenant).model_copy(update=grant)


async def test_of_22_probes_a_workspace_lets_through_what_is_the_agents_own(tmp_path: Path) -> None:
    async with host(tmp_path, sandbox="workspace") as here:
        walls = here.service.running.pool.launch.walls
        assert walls.usual.startswith("workspace")
        for kind in ("bubblewrap", "landlock", *(["run_as"] if os.geteuid() == 0 else [])):
            hidden = hidden_places([here.service.data_dir])
            sandbox = landlock(hidden) if kind == "landlock" else bubblewrap(hidden, own_processes=False)
            use(here.service, sandbox, run_as="auto" if kind == "run_as" else None)
            found = await here.probe()
            assert len(found) == 22
            assert {name for name, reached in found.items() if reached} == REACHED[kind], kind
