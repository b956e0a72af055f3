"""Data is UTF-8 whatever the locale; what is for people shows what the locale's encoding lacks."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

TEXT = "你好 \u20ac é 🙂"
ENCODINGS = ["ascii", "cp932", "latin-1", "utf-8"]


@pytest.fixture
def told(service, script):
    """A session whose agent said something that few encodings have."""
    service.events(script.text(TEXT))
    service.end_turn(result=TEXT)
    return service


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_export_is_utf8(told, encoding):
    code, out, _ = await _agentctl(told, encoding, "export", "s")
    assert (code, TEXT in out.decode("utf-8")) == (0, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "arguments", [["run", "--json", "x"], ["export", "--format", "jsonl", "s"], ["status", "--json", "s"]]
)
async def test_json_is_utf8(told, encoding, arguments):
    code, out, _ = await _agentctl(told, encoding, *arguments)
    assert code == 0
    assert [json.loads(line) for line in out.decode("utf-8").splitlines()]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_prompt_from_standard_input_is_utf8_byte_for_byte(told, encoding):
    prompt = f"\ufeff{TEXT}\r\nsecond\x00line\r"
    code, _, _ = await _agentctl(told, encoding, "run", "-", stdin=prompt.encode())
    assert (code, told.requests["Execute"][0].prompt) == (0, prompt)


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_bytes_that_are_not_utf8_are_an_error_with_the_offset(told, encoding):
    code, _, err = await _agentctl(told, encoding, "run", "-", stdin="ab é".encode() + b"\xffc")
    assert (code, b"not UTF-8: byte 0xff at offset 5" in err) == (2, True), err
    assert not told.requests["Execute"]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "\\u4f60"), ("cp932", "\\xe9"), ("latin-1", "\\u20ac")])
async def test_people_see_what_their_encoding_lacks(told, encoding, shown):
    code, out, _ = await _agentctl(told, encoding, "run", "-q", "x")
    assert (code, shown in out.decode(encoding)) == (0, True), out


async def test_an_argument_that_the_locale_cannot_decode_is_utf8(told):
    code, _, err = await _agentctl(told, "ascii", "run", TEXT)
    assert (code, [each.prompt for each in told.requests["Execute"]]) == (0, [TEXT]), err


async def _agentctl(service, encoding, *arguments, stdin=b""):
    # PYTHONIOENCODING says what the streams of a locale with that encoding would be; few are installed on most hosts.
    env = {"AGENT_SERVER": service.address, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-X", "utf8=0", "-c", "from agent_client.cli import main; main()", *arguments],
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    return process.returncode, out, err
