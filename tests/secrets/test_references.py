"""secret://NAME: where it may stand, what it is looked up as, and what is no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import options as translate
from agent_service.agents.failures import AgentFailed
from agent_service.agents.secrets import MAX_SECRET, Secrets

VALUE = 'v4lue "of" \\ the tökn'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def put(folder: Path, name: str, value: bytes = VALUE.encode(), *, tenant: str = "default", mode: int = 0o600) -> Path:
    file = folder / tenant / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(value)
    file.chmod(mode)
    return file


def everywhere(value: str) -> pb.AgentOptions:
    """Options with a value in each place that takes a reference."""
    headers = {"authorization": value}
    return pb.AgentOptions(
        env={"T": value},
        mcp_servers={
            "a": pb.McpServer(stdio=pb.McpStdioServer(command="x", env={"T": value})),
            "b": pb.McpServer(http=pb.McpHttpServer(url="http://h/", headers=headers)),
            "c": pb.McpServer(sse=pb.McpHttpServer(url="http://h/", headers=headers)),
        },
    )


PLACES = [
    'env["T"]',
    'mcp_servers["a"].stdio.env["T"]',
    'mcp_servers["b"].http.headers["authorization"]',
    'mcp_servers["c"].sse.headers["authorization"]',
]


def test_the_value_takes_the_places_place_in_a_copy(folder: Path) -> None:
    put(folder, "token", b"value-of-it\n")
    options = everywhere("secret://token")
    resolved, masks = Secrets(folder).resolve(options, "")

    assert resolved == everywhere("value-of-it")
    assert options == everywhere("secret://token")
    assert masks is not None
    assert masks.text("is value-of-it.") == "is ***."


def test_a_header_may_name_a_scheme_before_the_reference(folder: Path) -> None:
    put(folder, "token", b"value-of-it")
    options = pb.AgentOptions(
        mcp_servers={"b": pb.McpServer(http=pb.McpHttpServer(url="http://h/", headers={"a": "Bearer secret://token"}))}
    )

    assert not translate.check(options)
    resolved, _ = Secrets(folder).resolve(options, "")
    assert resolved.mcp_servers["b"].http.headers["a"] == "Bearer value-of-it"


def test_every_tenant_has_its_own(folder: Path) -> None:
    put(folder, "token", b"of-the-one", tenant="one")
    put(folder, "token", b"of-nobody")
    put(folder, "other", b"of-the-one", tenant="one")
    secrets = Secrets(folder)

    assert secrets.resolve(pb.AgentOptions(env={"T": "secret://token"}), "one").options.env["T"] == "of-the-one"
    assert secrets.resolve(pb.AgentOptions(env={"T": "secret://token"}), "").options.env["T"] == "of-nobody"
    for tenant in ("", "two", "default", "..", "one/../one", "", ".", "one\0"):
        assert secrets.check(pb.AgentOptions(env={"T": "secret://other"}), tenant), tenant


@pytest.mark.parametrize(
    "value",
    [
        "secret://",
        "secret://../one/token",
        "secret:///etc/passwd",
        "secret://a/b",
        "secret://.hidden",
        "secret://tok\nen",
        "secret://token ",
        "x secret://token, secret://other",
        "secret://" + "n" * 129,
        "secret://tökn",
    ],
)
def test_what_is_no_secrets_name_is_refused_with_its_field(value: str) -> None:
    found = {field: text for field, text in translate.check(everywhere(value)) if "secret://NAME" in text}

    assert sorted(found) == [f"options.{place}" for place in PLACES]


def test_a_scheme_is_for_headers() -> None:
    assert sorted(field for field, _ in translate.check(everywhere("Bearer secret://token"))) == [
        f"options.{place}" for place in PLACES[:2]
    ]


def test_an_unknown_secret_is_said_for_each_field(folder: Path) -> None:
    put(folder, "token")

    for secrets, text in ((Secrets(folder), "there is none of this name"), (Secrets(None), "--secrets-dir")):
        found = secrets.check(everywhere("secret://absent"), "")
        assert sorted(field for field, _ in found) == [f"options.{place}" for place in PLACES]
        assert all("secret absent" in each.description and text in each.description for each in found)
        with pytest.raises(AgentFailed, match="absent") as failed:
            secrets.resolve(everywhere("secret://absent"), "")
        assert failed.value.reason == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("value", "mode", "text"),
    [
        (b"", 0o600, "empty"),
        (b"\n", 0o600, "empty"),
        (b"a\0b", 0o600, "NUL"),
        (b"\xff\xfe12345678", 0o600, "UTF-8"),
        (b"x" * (MAX_SECRET + 1), 0o600, "bytes"),
        (VALUE.encode(), 0o640, "chmod 600"),
        (VALUE.encode(), 0o604, "chmod 600"),
        (VALUE.encode(), 0o620, "chmod 600"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_without_its_value(folder: Path, value: bytes, mode: int, text: str) -> None:
    put(folder, "token", value, mode=mode)
    (found,) = Secrets(folder).check(pb.AgentOptions(env={"T": "secret://token"}), "")

    assert text in found.description
    assert VALUE not in found.description


def test_a_value_of_several_lines_is_for_environments_only(folder: Path) -> None:
    put(folder, "key", b"-----BEGIN\nabc\n-----END\n")
    found = Secrets(folder).check(everywhere("secret://key"), "")

    assert sorted(field for field, _ in found) == [f"options.{place}" for place in PLACES[2:]]
    assert all("abc" not in text for _, text in found)


def test_links_are_followed_within_the_directory_as_kubernetes_makes_them(folder: Path, tmp_path: Path) -> None:
    mounted = folder / "default"
    put(mounted, "token", b"first-value", tenant="..2026_01")
    (mounted / "..data").symlink_to("..2026_01")
    (mounted / "token").symlink_to("..data/token")
    put(tmp_path, "outside", b"of-somebody-else", tenant="elsewhere")
    (mounted / "stolen").symlink_to(tmp_path / "elsewhere" / "outside")
    put(folder, "token", b"of-the-one", tenant="one")
    (mounted / "theirs").symlink_to("../one/token")
    (mounted / "loop").symlink_to("loop")
    secrets = Secrets(folder)

    named = pb.AgentOptions(env={"T": "secret://token"})
    before = secrets.versions(named, "")
    assert secrets.resolve(named, "").options.env["T"] == "first-value"
    put(mounted, "token", b"second-value", tenant="..2026_02")
    (mounted / "..data_tmp").symlink_to("..2026_02")
    os.replace(mounted / "..data_tmp", mounted / "..data")
    assert secrets.resolve(named, "").options.env["T"] == "second-value"
    assert secrets.versions(named, "") != before
    for name in ("stolen", "theirs", "loop"):
        assert secrets.check(pb.AgentOptions(env={"T": f"secret://{name}"}), ""), name


def test_a_fifo_is_no_secret_and_nobody_waits_for_it(folder: Path) -> None:
    (folder / "default").mkdir(parents=True)
    os.mkfifo(folder / "default" / "token", 0o600)

    assert "not a file" in Secrets(folder).check(pb.AgentOptions(env={"T": "secret://token"}), "")[0].description


def test_what_is_shown_of_options_is_the_reference() -> None:
    options = everywhere("secret://token")
    options.env["PLAIN"] = "plain-value"
    translate.redact(options)

    assert options.env["PLAIN"] == "***"
    del options.env["PLAIN"]
    assert options == everywhere("secret://token")
