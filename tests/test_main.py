"""`agent-service serve`: flags, variables and a TOML file become a Config; what cannot be is refused in clear words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from click.testing import CliRunner, Result

from agent_service import __main__ as main
from agent_service import server
from agent_service.config import Config, parse_duration
from agent_service.output import JsonLines, LineWriter, Output
from tests.rpc import Carrying, token_in

OPTIONS = [field for field in dataclasses.fields(Config) if "help" in field.metadata]
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "profiles": ("/etc/agents/profiles", Path("/etc/agents/profiles")),
    "listen": ("127.0.0.1:1", ("127.0.0.1:1",)),
    "auth": ("local", "local"),
    **dict.fromkeys(("access", "tls_cert", "tls_key", "tls_client_ca"), ("/tmp/file", Path("/tmp/file"))),
    "data_dir": ("/tmp/somewhere", Path("/tmp/somewhere")),
    "secrets_dir": ("/tmp/secrets", Path("/tmp/secrets")),
    "model": ("offline", "offline"),
    "model_gateway": ("all", "all"),
    "default_model": ("a-model", "a-model"),
    "insecure": (True, True),
    "audit_log": ("audit.log", Path("audit.log")),
    "audit_reads": (True, True),
    "process_guard": ("process-group", "process-group"),
    "sandbox": ("workspace", "workspace"),
    "log_level": ("debug", "debug"),
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The Configs that would have been served."""
    configs: list[Config] = []

    async def serve(config: Config, *, ready: Any) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(main, "open_output", lambda level: Output(Echo(err=False), Echo(err=True)))
    return configs


@dataclasses.dataclass
class Echo(LineWriter):
    """Writes to what click's runner captures."""

    err: bool

    def put(self, line: str) -> None:
        click.echo(line, err=self.err)

    def flush(self, patience: float = 0) -> bool:
        return True


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main.cli, ["serve", *arguments], env=environment)


def example(field: dataclasses.Field[Any]) -> tuple[Any, Any]:
    """A value of an option as it is written, and as it is meant."""
    if field.metadata.get("duration"):
        return "2m", 120.0
    return EXAMPLES.get(field.name, (17, 17))


@pytest.mark.parametrize("field", OPTIONS, ids=lambda field: field.name)
def test_every_option_is_a_flag_a_variable_and_a_key(
    field: dataclasses.Field[Any], served: list[Config], tmp_path: Path
) -> None:
    written, meant = example(field)
    flag = f"--{field.name.replace('_', '-')}"
    variable = f"AGENT_SERVICE_{field.name.upper()}"
    file = tmp_path / "service.toml"
    file.write_text(f"{field.name} = {json.dumps(written)}\n")
    results = [
        invoke(*([flag] if written is True else [flag, str(written)])),
        invoke(**{variable: str(written).lower() if written is True else str(written)}),
        invoke("--config", str(file)),
        invoke(AGENT_SERVICE_CONFIG=str(file)),
    ]
    assert [result.exit_code for result in results] == [0] * 4, [result.output for result in results]
    assert [getattr(config, field.name) for config in served] == [meant] * 4


def test_several_addresses_are_repeated_flags_a_variable_with_commas_and_a_list(
    served: list[Config], tmp_path: Path
) -> None:
    wanted = ("127.0.0.1:1", "unix:/run/a.sock")
    file = tmp_path / "service.toml"
    file.write_text(f"listen = {json.dumps(wanted)}\n")
    invoke("--listen", wanted[0], "--listen", wanted[1])
    invoke(AGENT_SERVICE_LISTEN=",".join(wanted))
    invoke("--config", str(file))
    assert [config.listen for config in served] == [wanted] * 3


def test_flags_go_before_variables_and_variables_before_the_file(served: list[Config], tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('max_sessions = 1\nmax_queued = 1\nretention = "1h"\nidle_timeout = 1.5\n')
    result = invoke(
        "--config", str(file), "--max-sessions", "3", AGENT_SERVICE_MAX_SESSIONS="2", AGENT_SERVICE_MAX_QUEUED="2"
    )
    assert result.exit_code == 0, result.output
    config = served[0]
    assert (config.max_sessions, config.max_queued, config.retention, config.idle_timeout) == (3, 2, 3600.0, 1.5)
    assert config.start_timeout == 60.0, "what nobody sets has its default"


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("max_sesions = 1", "unknown keys max_sesions; known are"),
        ("max_sessions = ", "Invalid value"),
        ("max_sessions = 0", "0 is not in the range x>=1"),
        ('retention = "a while"', "is no duration; accepted are texts such as 90s"),
        ("retention = -5", "must not be negative"),
        ("retention = nan", "must not be negative"),
        ('model = "gpt"', "'claude', 'offline', 'auto'"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_accepted(
    toml: str, complaint: str, served: list[Config], tmp_path: Path
) -> None:
    file = tmp_path / "service.toml"
    file.write_text(toml)
    result = invoke("--config", str(file))
    assert result.exit_code == 2
    assert complaint in result.output
    assert not served


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("24h", 86400), ("2d", 172800), ("500ms", 0.5)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    for bad in ("-1s", "1 year", "", "s", "1e3"):
        with pytest.raises(ValueError, match="is no duration"):
            parse_duration(bad)
    with pytest.raises(ValueError, match="more than 10 years"):
        parse_duration("3651d")


def test_agents_see_the_way_to_claude_and_nothing_else_of_the_environment() -> None:
    environment = {
        "PATH": "/bin",
        "ANTHROPIC_API_KEY": "k",
        "HTTPS_PROXY": "p",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "AGENT_SERVICE_LISTEN": "x",
        "DATABASE_PASSWORD": "secret",
        "HOME": "/root",
    }
    assert set(main.agent_environment(environment)) == {"PATH", "ANTHROPIC_API_KEY", "HTTPS_PROXY"}


# ------------------------------------------------------------------------------------------------- as a real process


def clean_environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "agent_service", "serve", *arguments]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "offline", "--listen", "0.0.0.0:0"], "reachable from other machines"),
        (["--model", "offline", "--listen", ":0"], "every address is reachable from other machines"),
        (["--model", "offline", "--listen", "nonsense"], "listen must be HOST:PORT"),
        (["--model", "offline", "--listen", "127.0.0.1:99999"], "listen must be HOST:PORT"),
        (["--model", "offline", "--listen", "no.such.host.invalid:0", "--insecure"], "cannot listen on"),
        ([], "no credentials for Claude were found: set ANTHROPIC_API_KEY"),
        (["--data-dir", "/dev/null/x", "--model", "offline"], "the data directory /dev/null/x cannot be used"),
    ],
    ids=["everywhere", "anywhere", "nonsense", "no port", "no host", "no credentials", "no directory"],
)
def test_what_cannot_be_served_is_refused_in_clear_words(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "open_output", lambda level: Output(Echo(err=False), Echo(err=True)))
    monkeypatch.setattr(main, "agent_environment", lambda environment: {"PATH": environment["PATH"]})
    defaults = [] if "--data-dir" in arguments else ["--data-dir", str(tmp_path / "data")]
    result = invoke("--listen", "127.0.0.1:0", *defaults, *arguments)
    assert result.exit_code == 78
    assert complaint in result.stderr
    assert result.stdout == ""


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A service as a process while the block lasts."""
    with subprocess.Popen(
        command(*arguments),
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            yield service
        finally:
            service.kill()


def test_one_line_on_stdout_and_json_on_stderr(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "data"
    with process("--model", "offline", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir)) as service:
        assert service.stdout is not None
        line = service.stdout.readline()
        name, _, address = line.rstrip("\n").rpartition(" ")
        assert name == "agent-service listening on"
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        with grpc.insecure_channel(address) as channel:
            stub: Any = agent_pb2_grpc.AgentServiceStub(Carrying(channel, token_in(data_dir)))  # type: ignore[arg-type]
            info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
            assert info.model_backend == "offline"
            done = stub.Execute(pb.ExecuteRequest(prompt="say: hi", wait={"seconds": 30}), timeout=40)
            assert done.turn.result.result == "hi"
            second = subprocess.run(
                command("--model", "offline", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir)),
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert second.returncode == 78, "a data directory serves one service"
            assert "Traceback" not in second.stderr
        assert data_dir.stat().st_mode & 0o777 == 0o700
        service.send_signal(signal.SIGTERM)
        rest, log = service.communicate(timeout=60)
    assert service.returncode == 0
    assert rest == "", "the one line is all there is on stdout"
    lines = [json.loads(each) for each in log.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(each) for each in lines)
    assert any("offline model" in each["event"] for each in lines), "it never pretends to be Claude"
    assert any("first signal" in each["event"] for each in lines)


def test_a_data_directory_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o755)
    arguments = ("--model", "auto", "--listen", "[::1]:0", "--data-dir", str(data_dir))
    with process(*arguments, AGENT_SERVICE_LOG_LEVEL="error") as service:
        assert service.stdout is not None
        assert service.stdout.readline().startswith("agent-service listening on [::1]:")
        assert data_dir.stat().st_mode & 0o777 == 0o700
        service.send_signal(signal.SIGINT)
        assert service.wait(60) == 0


def test_a_log_line_is_one_line_of_json_whatever_it_says() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a.b", logging.WARNING, "file", 1, "it said %r\n%s", ("\ud800", "ü"), sys.exc_info())
    record.created = 1_700_000_000.0
    line = JsonLines().format(record)
    assert "\n" not in line
    shown = json.loads(line)
    assert "ValueError: two\nlines" in shown.pop("exception")
    assert shown == {
        "event": "it said '\\ud800'\nü",
        "logger": "a.b",
        "level": "warning",
        "timestamp": "2023-11-14T22:13:20.000000Z",
    }


def test_a_command_imports_nothing_before_it_knows_what_it_is_to_do() -> None:
    code = "import sys, agent_service.__main__; print({'grpc', 'claude_agent_sdk', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_token_is_printed_alone_and_its_table_beside_it():
    done = CliRunner().invoke(main.cli, ["token", "ci.payments", "--tenant", "payments"])
    token = done.stdout.strip()
    assert re.fullmatch(r"ast_[A-Za-z0-9_-]{43}", token)
    assert token not in done.stderr
    table = "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("    "))
    digest = "sha256:" + hashlib.sha256(token.encode()).hexdigest()
    assert tomllib.loads(table) == {"principal": {"ci.payments": {"token": digest, "tenant": "payments"}}}


def test_every_token_is_another():
    assert len({CliRunner().invoke(main.cli, ["token", "ci"]).stdout for _ in range(3)}) == 3


@pytest.mark.parametrize("arguments", [["a b"], ["-x"], [""], ["a", "--tenant", "[b]"], ["x" * 129]])
def test_a_name_that_the_access_file_cannot_have_is_refused(arguments):
    done = CliRunner().invoke(main.cli, ["token", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
