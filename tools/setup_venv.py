"""Makes .venv from the lock files, with the project itself installed in place; see `make setup` and `make tools`.

Without arguments it installs requirements.lock: what the service and its client need. With --tools it installs
requirements-dev.lock, which holds the same packages in the same versions and those of tests and checks besides.

Needs nothing but Python. It can be interrupted at any moment, and two may run at once: a lock file keeps them apart,
and a .venv that was left half made (it holds a file called .incomplete) is made anew. `.venv/.ready` and
`.venv/.tools-ready` say what the finished one was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY, TOOLS_READY = VENV / ".ready", VENV / ".tools-ready"
LOCK, TOOLS_LOCK = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
INCOMPLETE = VENV / ".incomplete"
OLDEST = (3, 11)


def main() -> int:
    """Bring .venv up to date; 0 when it is."""
    if sys.version_info < OLDEST:
        return fail(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    tools = sys.argv[1:] == ["--tools"]
    with only_one():
        wanted = {"packages": digest(LOCK.read_bytes()), "project": digest(project())}
        if tools:
            wanted["tools"] = digest(TOOLS_LOCK.read_bytes())
        made_from = read_ready()
        if any(made_from.get(name) != value for name, value in wanted.items()):
            started = time.monotonic()
            try:
                update(wanted, made_from)
            except subprocess.CalledProcessError as error:
                return fail(f"this step failed: {' '.join(map(str, error.cmd))}")
            say(f"ready in {time.monotonic() - started:.0f} s")
        for mark in (READY, TOOLS_READY) if tools else (READY,):
            mark.touch()  # for make: newer than what it is made from
    return 0


def update(wanted: dict[str, str], made_from: dict[str, str]) -> None:
    """Install what differs. The mark .incomplete stands from the first change to the last."""
    if INCOMPLETE.exists() or not works():
        say("creating it")
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        INCOMPLETE.touch()
        run(sys.executable, "-m", "venv", VENV)
        made_from = {}
    INCOMPLETE.touch()
    for mark in (READY, TOOLS_READY):
        mark.unlink(missing_ok=True)
    for lock, name in ((TOOLS_LOCK, "tools"), (LOCK, "packages")):
        if name in wanted and wanted[name] != made_from.get(name):
            say(f"installing the packages of {lock.name}; the first time takes a minute or two")
            # --no-deps: the lock is complete, and `pip check` proves it.
            pip("install", "--quiet", "--no-deps", "--require-hashes", "-r", lock)
            made_from |= {"packages": wanted["packages"]}  # requirements-dev.lock holds those of requirements.lock
    pip("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--editable", ROOT)
    pip("check", quiet=True)
    written = {name: value for name, value in wanted.items() if name != "tools"}
    READY.write_text("".join(f"{name} {value}\n" for name, value in written.items()))
    if "tools" in wanted:
        TOOLS_READY.write_text(f"tools {wanted['tools']}\n")
    INCOMPLETE.unlink()


class only_one:
    """Holds .cache/setup.lock, so that two `make` do not write into one .venv."""

    def __enter__(self) -> None:
        (ROOT / ".cache").mkdir(exist_ok=True)
        self.file = (ROOT / ".cache" / "setup.lock").open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        self.file.close()


def works() -> bool:
    """Whether .venv has a Python that is new enough, and a pip."""
    check = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode == 0


def read_ready() -> dict[str, str]:
    """What .venv was made from; empty when it was not finished."""
    if INCOMPLETE.exists() or not READY.exists() or not works():
        return {}
    marks = [mark.read_text() for mark in (READY, TOOLS_READY) if mark.exists()]
    return dict(line.split() for text in marks for line in text.splitlines())


def project() -> bytes:
    """What of pyproject.toml decides how the project is installed: the settings of the checks do not."""
    import tomllib  # not at the top: an older Python has to get as far as saying that it is too old

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return json.dumps(
        [settings["build-system"], settings["project"], settings["tool"]["hatch"]], sort_keys=True
    ).encode()


def digest(content: bytes) -> str:
    """The SHA-256 of it."""
    return hashlib.sha256(content).hexdigest()


def pip(*args: str | Path, quiet: bool = False) -> None:
    """Run the pip of .venv, whatever the caller's settings say about users and environments."""
    settings = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    run(PYTHON, "-m", "pip", *args, env={**os.environ, **settings}, quiet=quiet)


def run(*command: str | Path, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command from the project's folder; CalledProcessError when it fails."""
    result = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=quiet, check=False)
    if result.returncode != 0:
        if quiet:
            sys.stderr.buffer.write(result.stdout + result.stderr)
        raise subprocess.CalledProcessError(result.returncode, command)


def say(text: str) -> None:
    """One line about the progress."""
    print(f".venv: {text}", flush=True)


def fail(text: str) -> int:
    """One line about what went wrong, and the exit code."""
    print(f".venv: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(fail("interrupted; run `make setup` again"))
