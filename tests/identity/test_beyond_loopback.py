"""Beyond loopback: on a host with a network interface of its own, in a network namespace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.sandbox.walls import absent

ROOT = Path(__file__).resolve().parents[2]


def test_other_machines_need_tls_and_a_credential(tmp_path: Path) -> None:
    unshare = ["unshare", "--net"]
    if shutil.which("ip") is None:
        absent("there is no ip on this host")
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        absent(f"a network namespace cannot be made here: {tried.stderr.strip()}")
    argv = [*unshare, sys.executable, "-m", "tests.identity.beyond", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
