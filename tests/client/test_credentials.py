"""Credentials: a client finds its token by itself, shows nobody but the service what it is, and says what to do."""

from __future__ import annotations

import logging
import os
import traceback

import grpc
import grpc.aio
import pytest
from agent_client import AgentClient, errors
from agent_client.connection import Access, Connection
from agent_client.credentials import TokenWanted, discovery_name
from agentpb import agent_pb2_grpc

from tests.pki import Authority

SECRET = "ast_an-example-that-nobody-else-may-see"
MISSING = grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"
INVALID = grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No variable names a credential, and no service has left a token."""
    for name in ("TOKEN", "TOKEN_FILE", "CA", "CERT", "KEY", "TENANT"):
        monkeypatch.delenv(f"AGENT_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def leave(service, tmp_path):
    """Leave a token for callers, as a service does."""

    def leave(token, host="127.0.0.1", base="runtime"):
        directory = tmp_path / base / "agent-service"
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / discovery_name(host, service.address.rpartition(":")[2])
        file.write_text(token + "\n")
        return file

    return leave


async def sent_by(service, target=None, **arguments):
    """The headers of one call."""
    async with AgentClient(target or service.address, **arguments) as client:
        await client.server_info()
    return service.metadata[-1]


def _metadata(target, environment, **wanted):
    return dict(Connection(target, Access(token=TokenWanted(**wanted)), environment=environment).metadata())


# --- where a token is found ---


async def test_a_flag_goes_before_a_variable_and_a_variable_before_the_file_that_is_found(
    service, leave, monkeypatch, tmp_path
):
    leave("found")
    assert (await sent_by(service))["authorization"] == "Bearer found"
    (tmp_path / "named").write_text("of-the-file\n")
    monkeypatch.setenv("AGENT_TOKEN_FILE", str(tmp_path / "named"))
    assert (await sent_by(service))["authorization"] == "Bearer of-the-file"
    monkeypatch.setenv("AGENT_TOKEN", "of-the-variable")
    assert (await sent_by(service))["authorization"] == "Bearer of-the-variable"
    (tmp_path / "given").write_text("of-the-given-file")
    assert (await sent_by(service, token_file=tmp_path / "given"))["authorization"] == "Bearer of-the-given-file"
    both = {"token": "given", "token_file": tmp_path / "given"}
    assert (await sent_by(service, **both))["authorization"] == "Bearer given"
    assert "authorization" not in await sent_by(service, token=""), "an empty token sends none"


@pytest.mark.parametrize("target", ["127.0.0.1:{}", "localhost:{}", "ipv4:127.0.0.1:{}", "dns:///localhost:{}"])
async def test_whatever_name_this_host_is_called_by_the_token_is_found(service, leave, target):
    leave("found")
    port = service.address.rpartition(":")[2]
    assert (await sent_by(service, target.format(port)))["authorization"] == "Bearer found"


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "[::1]"])
async def test_the_token_is_found_whatever_address_the_service_listens_at(service, leave, host):
    leave("found", host)
    assert (await sent_by(service))["authorization"] == "Bearer found"


async def test_a_service_that_was_started_without_a_session_leaves_its_token_in_the_home_directory(service, leave):
    leave("of-home", base="home/.local/state")
    assert (await sent_by(service))["authorization"] == "Bearer of-home"


async def test_the_newest_token_is_taken_when_a_crashed_service_left_another(service, leave):
    os.utime(leave("old"), (1, 1))
    leave("new", base="home/.local/state")
    assert (await sent_by(service))["authorization"] == "Bearer new"


def test_a_token_that_is_left_on_this_host_goes_to_no_other(tmp_path):
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "agent-service").mkdir()
    for name in ("agents.example_50051.token", "127.0.0.1_50051.token"):
        (tmp_path / "agent-service" / name).write_text("found")
    assert _metadata("agents.example:50051", environment) == {}
    assert _metadata("ipv4:127.0.0.1:50051,10.1.2.3:50051", environment) == {}
    assert _metadata("127.0.0.1:50051", environment) == {"authorization": "Bearer found"}


def test_a_unix_socket_has_a_token_of_its_own(tmp_path):
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "agent-service").mkdir()
    (tmp_path / "agent-service" / "unix_run_agents_ci.sock.token").write_text("of-the-socket")
    for target in ("unix:/run/agents/ci.sock", "unix:///run/agents/ci.sock"):
        assert _metadata(target, environment) == {"authorization": "Bearer of-the-socket"}


async def test_a_call_over_a_unix_socket_carries_the_token(service, tmp_path):
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{tmp_path}/a.sock")
    await server.start()
    assert (await sent_by(service, f"unix:{tmp_path}/a.sock", token="t"))["authorization"] == "Bearer t"
    await server.stop(None)


async def test_the_tenant_goes_with_every_call(service, monkeypatch):
    monkeypatch.setenv("AGENT_TENANT", "payments")
    assert (await sent_by(service))["agent-tenant"] == "payments"
    assert (await sent_by(service, tenant="search"))["agent-tenant"] == "search"


async def test_an_authorization_of_the_callers_own_is_the_only_one(service, monkeypatch):
    monkeypatch.setenv("AGENT_TOKEN", "of-the-variable")
    assert (await sent_by(service, metadata={"authorization": "Basic abc"}))["authorization"] == "Basic abc"


# --- a service that was restarted ---


async def test_a_restarted_service_has_another_token_and_calls_go_on(client, service, script, leave):
    leave("first")
    await client.server_info()
    service.fail("GetServerInfo", script.refusal(*INVALID))
    leave("second")
    await client.server_info()
    assert [each["authorization"] for each in service.metadata] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_watch_goes_on_with_the_next_token(client, service, script, leave):
    leave("first")
    service.numbered(2)
    service.cuts = {1: "unavailable"}
    watch = client.watch(script.SESSION)
    assert (await anext(watch)).sequence == 1
    service.fail("WatchSession", script.refusal(*INVALID))
    leave("second")
    assert [event.sequence async for event in watch] == [2]
    assert service.metadata[-1]["authorization"] == "Bearer second"


async def test_a_client_older_than_its_service_finds_the_token_once_it_is_there(client, service, script, leave):
    service.fail("GetServerInfo", *[script.refusal(*MISSING)] * 2)
    with pytest.raises(errors.CredentialsMissing):
        await client.server_info()
    leave("late")
    await client.server_info()
    assert service.metadata[-1]["authorization"] == "Bearer late"


async def test_a_token_that_is_refused_and_has_not_changed_is_sent_once(client, service, script, leave):
    leave("stale")
    service.fail("GetServerInfo", script.refusal(*INVALID))
    with pytest.raises(errors.CredentialsInvalid, match=r"that was sent is that of .*runtime/agent-service/127.0.0.1_"):
        await client.server_info()
    assert len(service.requests["GetServerInfo"]) == 1


# --- what people are told ---


async def test_agentctl_says_where_it_looked_and_what_to_set(service, script, agentctl):
    service.fail("GetServerInfo", script.refusal(*MISSING, "a credential is needed"))
    done = await agentctl("info")
    assert (done.code, done.err.count("\n")) == (5, 1)
    assert done.err.startswith("agentctl: a credential is needed; no token was given, AGENT_TOKEN and AGENT_TOKEN_FILE")
    assert f"agent-service/{service.address.replace(':', '_')}.token" in done.err
    assert "set AGENT_TOKEN_FILE to a file that holds a token" in done.err


@pytest.mark.parametrize("before", [True, False])
async def test_agentctl_takes_the_options_before_and_after_the_command(service, agentctl, tmp_path, before):
    (tmp_path / "token").write_text("of-the-file")
    options = ["--token-file", str(tmp_path / "token"), "--tenant", "payments"]
    done = await agentctl(*options, "info") if before else await agentctl("info", *options)
    assert done.code == 0, done
    assert service.metadata[-1]["authorization"] == "Bearer of-the-file"
    assert service.metadata[-1]["agent-tenant"] == "payments"


async def test_an_option_of_one_command_is_gone_with_it(service, agentctl):
    await agentctl("info", "--token", "once")
    await agentctl("info")
    assert "authorization" not in service.metadata[-1]


async def test_a_token_file_that_cannot_be_used_is_named(service, agentctl, tmp_path):
    done = await agentctl("info", "--token-file", "/no/such/file")
    assert (done.code, "the token file /no/such/file cannot be read: No such file" in done.err) == (2, True), done
    (tmp_path / "empty").write_text("\n")
    done = await agentctl("info", "--token-file", str(tmp_path / "empty"))
    assert (done.code, "empty is empty" in done.err) == (2, True), done


async def test_a_token_is_sent_to_other_hosts_over_tls_only(agentctl, monkeypatch):
    monkeypatch.setenv("AGENT_TOKEN", SECRET)
    done = await agentctl("info", "--server", "agents.example:50051")
    assert (done.code, done.err.count("--insecure"), done.err.count("tls:agents.example:50051")) == (2, 1, 1), done
    assert SECRET not in done.err + done.out
    with pytest.raises(ValueError, match="plain text"):
        await AgentClient("agents.example:1", metadata={"authorization": "Bearer t"}).server_info()
    sent = Connection("agents.example:1", Access(insecure=True)).metadata()
    assert dict(sent)["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("token", [SECRET, f"{SECRET}\n{SECRET}", f"{SECRET}\u00e4", "x" * 9000])
async def test_a_token_is_in_no_message_log_or_traceback(service, script, token, caplog):
    caplog.set_level(logging.DEBUG)
    service.fail("GetServerInfo", script.refusal(*INVALID))
    client = AgentClient(service.address, token=token)
    with pytest.raises((errors.CredentialsInvalid, ValueError)) as caught:
        await client.server_info()
    await client.close()
    below = caught.value.__traceback__.tb_next  # this test knows the token
    shown = traceback.TracebackException(type(caught.value), caught.value, below, capture_locals=True)
    for text in ("".join(shown.format()), caplog.text, repr(vars(client)), repr(vars(client._connection))):
        assert token.strip() not in text
        assert SECRET not in text


# --- certificates ---


@pytest.fixture
async def tls(service, tmp_path):
    """The fake service over TLS; `tls.certified` asks for a client certificate as well."""

    class Tls:
        authority = Authority(tmp_path, "first")

        async def listen(self, authority, *, certified=False):
            cert, key = authority.issue("server")
            pair = [(key.read_bytes(), cert.read_bytes())]
            roots = authority.ca.read_bytes()
            credentials = grpc.ssl_server_credentials(pair, roots if certified else None, certified)
            server = grpc.aio.server()
            agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
            port = server.add_secure_port("127.0.0.1:0", credentials)
            await server.start()
            servers.append(server)
            return f"127.0.0.1:{port}"

    servers = []
    found = Tls()
    found.plain = service.address
    found.address = await found.listen(found.authority)
    found.certified = await found.listen(found.authority, certified=True)
    yield found
    for server in servers:
        await server.stop(None)


async def test_a_token_goes_over_tls(service, tls, monkeypatch):
    monkeypatch.setenv("AGENT_CA", str(tls.authority.ca))
    assert (await sent_by(service, tls.address, token="t"))["authorization"] == "Bearer t"
    assert (await sent_by(service, f"tls:{tls.address}", token="t"))["authorization"] == "Bearer t"


async def test_a_certificate_is_shown_and_no_token_is_looked_for(service, tls, leave):
    cert, key = tls.authority.issue("caller")
    leave("found")
    sent = await sent_by(service, tls.certified, ca=tls.authority.ca, cert=cert, key=key)
    assert "authorization" not in sent


async def test_what_is_wrong_with_the_connection_is_guessed_aloud(tls, agentctl, tmp_path):
    other = Authority(tmp_path, "other")
    stranger, its_key = other.issue("stranger")
    ca, no_retries = tls.authority.ca, {"grpc.enable_retries": 0}
    for address, files, told in (
        (tls.address, {}, "does the server want TLS"),
        (tls.certified, {"ca": ca}, "does the server want a client certificate"),
        (tls.certified, {"ca": ca, "cert": stranger, "key": its_key}, "of another authority?"),
        (tls.plain, {"ca": ca}, "does not speak TLS"),
        (tls.address, {"ca": other.ca}, "is not signed by a trusted authority"),
    ):
        async with AgentClient(address, first_contact_for=0, channel_options=no_retries, **files) as client:
            with pytest.raises(errors.Unavailable) as caught:
                await client.server_info()
        assert told in str(caught.value), files
    done = await agentctl("info", "--server", tls.address)
    assert (done.code, "name its certificate authority (ca=, agentctl --ca, AGENT_CA)" in done.err) == (4, True), done


async def test_certificate_files_that_cannot_be_used_are_named(service, tls, agentctl, tmp_path):
    cert, _ = tls.authority.issue("caller")
    (tmp_path / "garbage").write_text("garbage")
    for options, told in (
        (["--cert", str(cert)], "needs its private key"),
        (["--ca", "/no/such/file"], "the file of the authorities, /no/such/file, cannot be read"),
        (["--ca", str(tmp_path / "garbage")], "has no PEM block"),
    ):
        done = await agentctl("info", *options)
        assert (done.code, told in done.err) == (2, True), (options, done)


async def test_new_certificates_count_from_the_next_call_and_a_watch_on_the_old_ones_goes_on(
    service, tls, script, tmp_path
):
    service.numbered(1)
    service.at_rest = False
    cert, key = tls.authority.issue("caller")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(tls.authority.ca.read_bytes())
    client = AgentClient(tls.certified, ca=roots, cert=cert, key=key)
    async with client, client.watch(script.SESSION) as watch:
        assert (await anext(watch)).sequence == 1
        first = client._connection.stub()
        assert client._connection.stub() is first
        tls.authority.issue("caller")
        await client.server_info()
        assert client._connection.stub() is not first
        roots.write_text("half writt")
        await client.server_info()
        assert (service.watchers, watch._stream.done()) == (1, False)
    await service.watcher_left.wait()
