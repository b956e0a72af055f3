"""What cannot be removed now is out of everybody's way, remembered, and tried again with growing pauses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance
from agent_service.agents import removals, trees
from agent_service.agents.removals import Removals
from tests.conftest import Service
from tests.process.live import until
from tests.test_trees import deep


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    """Mounts a file system, which nothing can remove, until the test is over."""
    mounted: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir(parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(path)

    yield make
    for path in mounted:
        subprocess.run(["umount", "--all-targets", "--lazy", path], check=False, capture_output=True)


def unmount_below(folder: Path) -> None:
    """Let go what is mounted somewhere in a directory."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", line.split()[1]], check=True)


def test_what_fails_is_tried_again_after_pauses_that_grow_and_over_a_restart(
    tmp_path: Path, mount: Callable[[Path], None]
) -> None:
    now = [0.0]
    kept = Removals(tmp_path / "removing", clock=lambda: now[0])
    deep(tmp_path / "stuck", 10)
    mount(tmp_path / "stuck" / "mounted")
    assert kept.remove(tmp_path / "stuck") == 0
    assert not (tmp_path / "stuck").exists()
    pauses = []
    for _ in range(12):
        pause = kept.retry()
        pauses.append(pause)
        now[0] += pause
    assert pauses[:4] == [60, 120, 240, 480]
    assert pauses[-1] == 6 * 3600
    (tmp_path / "other").mkdir()
    kept.discard(tmp_path / "other")
    kept.retry()
    assert len(kept.left()) == 1, "another removal waits for none that failed"
    unmount_below(tmp_path / "removing")
    again = Removals(tmp_path / "removing")
    assert again.retry() == float("inf")
    assert again.left() == []


@pytest.mark.parametrize("full", ["of data", "of files"])
def test_a_full_disk_keeps_nothing_from_being_removed(tmp_path: Path, full: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "size=1m,nr_inodes=60" if full == "of files" else "size=1m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with suppress(OSError):
            for number in range(60):
                deep(disk / str(number), 2)
                (disk / str(number) / "file").write_bytes(b"x" * (0 if full == "of files" else 100_000))
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x" * 5_000_000)
        (disk / "more").unlink(missing_ok=True)
        kept = Removals(disk / "removing")
        for path in list(disk.iterdir()):
            kept.remove(path)
        assert kept.left() == []
        assert [path.name for path in disk.iterdir()] in ([], ["removing"])
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_can_be_neither_moved_nor_removed_is_said_to_the_caller(tmp_path: Path, mount: Any) -> None:
    mount(tmp_path / "mounted")
    with pytest.raises(OSError, match="another file system"):
        Removals(tmp_path / "removing").remove(tmp_path / "mounted")
    Removals(tmp_path / "removing").discard(tmp_path / "mounted")  # says so in the log
    assert Removals(tmp_path / "removing").remove(tmp_path / "nothing") == 0


async def test_a_tree_that_the_host_keeps_hinders_no_deletion_no_start_and_no_backup(
    service: Service, tmp_path: Path, mount: Callable[[Path], None]
) -> None:
    done = await service.run("say: hello", session_id="s")
    own = service.data_dir / "sessions" / done.session.workspace_id
    mount(own / "work" / "mounted")
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="s"))
    assert not own.exists()
    left = maintenance.check(service.data_dir)
    assert [note.split("/")[0] for note in left.notes] == ["removing"]
    assert maintenance.backup(service.data_dir, tmp_path / "copy") == []
    assert not (tmp_path / "copy" / "removing").exists()
    assert (await service.run("say: again", session_id="s")).session.turn_count == 1
    unmount_below(service.data_dir)


async def test_a_removal_that_takes_long_is_finished_after_the_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "AT_ONCE", 0.0)
    done = await service.run("say: hello", session_id="s")
    deep(service.data_dir / "sessions" / done.session.workspace_id / "work", 100)
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="s"))
    await until(lambda: list((service.data_dir / "removing").iterdir()) == [])


async def test_one_session_whose_deletion_breaks_in_any_way_stops_no_cleanup(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (await service.run("say: one", session_id="broken")).session.workspace_id
    await service.run("say: two", session_id="whole")
    remove = trees.remove

    def odd(path: Path, **patience: float) -> int:
        raise UnicodeDecodeError("ascii", b"", 0, 1, str(path))

    def move(path: Path, target: Path) -> None:
        monkeypatch.setattr(trees, "remove", odd if path.name == broken else remove)
        path.rename(target)

    monkeypatch.setattr(trees, "move", move)
    request = pb.CleanupRequest()
    request.older_than.FromSeconds(0)
    answer = await service.stub.Cleanup(request)
    assert answer.deleted_count == 1
    assert [failure.session_id for failure in answer.failures] == ["broken"]


async def test_what_an_agent_writes_where_its_conversations_are_noted_removes_nothing_of_others(
    service: Service,
) -> None:
    other = await service.run("say: kept", session_id="other")
    hostile = await service.run("say: hostile", session_id="hostile")
    noted = service.data_dir / "sessions" / hostile.session.workspace_id / "conversations"
    noted.write_bytes(b"*\n\xff\n../*\n" + other.session.agent_session_id.encode()[:8] + b"*\n")
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="hostile"))
    recalled = await service.run("recall", session_id="other")
    assert "say: kept" in recalled.turn.result.result
