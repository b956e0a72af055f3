"""What an agent left is removed and copied whatever the agent made of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance
from agent_service.agents import tree_copy, trees
from agent_service.agents.workspace import Workspaces
from agent_service.ledger import Ledger
from tests.conftest import Service

NOBODY = 65534


def deep(root: Path, depth: int, name: str = "d" * 20) -> None:
    """Make a chain of directories, each with a file."""
    root.mkdir(exist_ok=True)
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        following = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def count(root: Path) -> int:
    """Files and directories below a directory, whatever the depth."""
    found = subprocess.run(["find", root, "-mindepth", "1", "-printf", "."], capture_output=True, check=False)
    return len(found.stdout)


@pytest.fixture
def own() -> Iterator[Path]:
    """A directory that an ordinary user can reach; pytest's own are root's alone."""
    root = Path(tempfile.mkdtemp())
    yield root
    trees.remove(root)


def as_nobody(root: Path, do: Callable[[], None]) -> None:
    """Do something as an ordinary user who owns a directory."""

    def change_user() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        do()

    if os.geteuid() != 0:
        do()
        return
    os.chown(root, NOBODY, NOBODY)
    process = multiprocessing.get_context("fork").Process(target=change_user)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_chain_of_three_thousand_directories_is_removed(tmp_path: Path) -> None:
    deep(tmp_path / "tree", 3000)  # its path is of 63,000 bytes
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, files[1]))
    try:
        assert trees.remove(tmp_path / "tree") > 3000 * 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    assert list(tmp_path.iterdir()) == []


def test_read_only_trees_and_odd_names_are_removed_as_an_ordinary_user_too(own: Path) -> None:
    root = own

    def make_and_remove() -> None:
        tree = root / "tree"
        deep(tree, 300)
        for name in ("\udcff\udcfe", "-rf", "new\nline", "x" * 255, ".removing-0"):
            (tree / name).mkdir()
            (tree / name / "file").write_text("x")
            (tree / name).chmod(0o000)
        subprocess.run(["chmod", "-R", "a-w", tree], check=False, stderr=subprocess.DEVNULL)
        tree.chmod(0o000)
        trees.move(tree, root / "moved")
        trees.remove(root / "moved")
        assert list(root.iterdir()) == []

    as_nobody(root, make_and_remove)


def test_what_is_immutable_or_for_appending_only_is_moved_and_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep(tree, 3)
    below = tree / ("d" * 20)
    for flag, path in (("+i", below / "file"), ("+a", below), ("+i", tree)):
        if subprocess.run(["chattr", flag, path], check=False, capture_output=True).returncode:
            pytest.skip("this host gives files no attributes")
    trees.move(tree, tmp_path / "moved")
    trees.remove(tmp_path / "moved")
    assert list(tmp_path.iterdir()) == []


def test_a_tool_that_goes_on_making_files_holds_up_a_removal_for_its_time_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    over = threading.Event()

    def fill() -> None:
        chance = random.Random(1)
        while not over.is_set():
            with suppress(OSError):
                os.makedirs(tree / str(chance.randrange(50)) / str(chance.randrange(50)))

    fillers = [threading.Thread(target=fill) for _ in range(3)]
    for filler in fillers:
        filler.start()
    try:
        with suppress(OSError):
            trees.remove(tree, patience=0.5)
        trees.move(tree, tmp_path / "moved")
        with suppress(OSError):
            trees.remove(tmp_path / "moved", patience=0.5)
    finally:
        over.set()
        for filler in fillers:
            filler.join()
    trees.remove(tree)
    trees.remove(tmp_path / "moved")
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_takes_longer_than_its_time_goes_on_at_the_next_call(tmp_path: Path) -> None:
    deep(tmp_path / "tree", 500)
    before = count(tmp_path / "tree")
    with pytest.raises(trees.TookTooLong, match="more than can be removed"):
        trees.remove(tmp_path / "tree", patience=0)
    trees.remove(tmp_path / "tree")
    assert before == 1000
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "below" / "link").symlink_to(outside)
    os.mkfifo(tree / "below" / "pipe")
    trees.remove(tree)
    (tmp_path / "root-link").symlink_to(outside)
    trees.remove(tmp_path / "root-link")
    assert [path.name for path in tmp_path.rglob("*")] == ["outside", "kept"]


def test_freed_bytes_are_what_the_disk_had_of_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tree / "linked").write_bytes(b"x" * 100_000)
    os.link(tree / "linked", tmp_path / "elsewhere")
    (tree / "full").write_bytes(b"x" * 100_000)
    assert 100_000 <= trees.remove(tree) < 150_000
    assert trees.remove(tree) == 0


def test_one_file_that_stays_is_told_and_all_others_go(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    deep(tree, 50)
    mount = tree / "mounted"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(OSError, match="another file system is mounted"):
            trees.remove(tree)
        assert list(tree.iterdir()) == [mount]
    finally:
        subprocess.run(["umount", mount], check=True)
    trees.remove(tree)
    assert list(tmp_path.iterdir()) == []


def test_directories_that_are_moved_while_they_are_copied_stop_no_copy(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(30):
        deep(tree / str(number), 20, name="d")
    (tree / "kept").write_text("x")
    over = threading.Event()

    def move_about() -> None:
        chance = random.Random(1)
        while not over.is_set():
            places = [os.path.join(*[str(chance.randrange(30)), *["d"] * chance.randrange(10)]) for _ in range(2)]
            with suppress(OSError):
                os.rename(tree / places[0], tree / places[1] / str(chance.random()))

    mover = threading.Thread(target=move_about)
    mover.start()
    try:
        for attempt in range(3):
            tree_copy.copy(tree, tmp_path / f"copy{attempt}")
            assert (tmp_path / f"copy{attempt}" / "kept").read_text() == "x"
    finally:
        over.set()
        mover.join()


def test_a_copy_has_what_can_be_read_and_names_the_rest(own: Path) -> None:
    root = own

    def make_and_copy() -> None:
        tree = root / "tree"
        deep(tree, 2500)
        (tree / "closed").mkdir(mode=0o000)
        (tree / "secret").write_text("x")
        (tree / "secret").chmod(0o000)
        os.mkfifo(tree / "pipe")
        (tree / "link").symlink_to("/nowhere")
        with (tree / "sparse").open("wb") as file:
            file.write(b"begin")
            file.truncate(1 << 34)
        problems = tree_copy.copy(tree, root / "copy")
        unreadable = [] if os.geteuid() == 0 else ["closed: Permission denied", "secret: Permission denied"]
        assert sorted(problems) == unreadable
        # the pipe is no file; what cannot be read has at least its directory
        assert count(root / "copy") == count(tree) - (1 if os.geteuid() == 0 else 2)
        assert (root / "copy" / "sparse").stat().st_blocks < 1000
        with (root / "copy" / "sparse").open("rb") as file:
            assert file.read(6) == b"begin\0"
        assert os.readlink(root / "copy" / "link") == "/nowhere"
        trees.remove(tree)
        trees.remove(root / "copy")

    as_nobody(root, make_and_copy)


async def test_no_tree_of_an_agent_stops_a_deletion_a_backup_or_a_start(service: Service, tmp_path: Path) -> None:
    done = await service.run("say: hello", session_id="s")
    own = service.data_dir / "sessions" / done.session.workspace_id
    deep(own / "work", 2500)
    deep(service.data_dir / "tmp" / "left", 2500)
    assert maintenance.backup(service.data_dir, tmp_path / "copy") == []
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="s"))
    assert not own.exists()
    assert Workspaces(service.data_dir).removals.left() == []
    Workspaces(tmp_path / "copy").clear()
    Workspaces(service.data_dir).clear()
    assert not (service.data_dir / "tmp").exists()
    async with Ledger(tmp_path / "copy") as copy:
        assert await copy.count() == 1
    trees.remove(tmp_path / "copy")
