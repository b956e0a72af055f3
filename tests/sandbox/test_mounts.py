"""The order in which a view is put together."""

from pathlib import Path

import pytest

from agent_service.processes.mounts import Kind, Mount, arrange


def arranged(base: Kind, *steps: tuple[str, Kind]) -> list[tuple[str, Kind]]:
    found = arrange([Mount(Path(path), kind, 3) for path, kind in steps], base=base)
    return [(str(step.path), step.kind) for step in found]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([("/usr/lib", "read-only")], []),
        ([("/srv/a", "writable"), ("/srv/a/b", "writable")], [("/srv/a", "writable")]),
        (
            [("/srv/a/data/own", "writable"), ("/srv/a", "writable"), ("/srv/a/data", "hidden")],
            [("/srv/a", "writable"), ("/srv/a/data", "hidden"), ("/srv/a/data/own", "writable")],
        ),
        ([("/home", "hidden"), ("/home/u/.ssh", "hidden")], [("/home", "hidden")]),
        ([("/home", "hidden"), ("/home", "writable")], [("/home", "writable")]),
    ],
)
def test_what_lies_deeper_has_the_last_word_and_what_says_nothing_new_is_left_out(
    steps: list[tuple[str, Kind]], left: list[tuple[str, Kind]]
) -> None:
    assert arranged("read-only", *steps) == left


def test_directories_above_a_place_are_made_only_where_a_hidden_place_lacks_them() -> None:
    steps = [
        Mount(Path("/home"), "hidden"),
        Mount(Path("/home/u/p/src"), "writable", 3),
        Mount(Path("/srv/a"), "writable", 4),
    ]
    parents = {str(step.path): [str(parent) for parent in step.parents] for step in arrange(steps, base="read-only")}
    assert parents == {"/home": [], "/home/u/p/src": ["/home/u", "/home/u/p"], "/srv/a": []}


def test_two_places_below_one_directory_make_it_once() -> None:
    steps = [
        Mount(Path("/home"), "hidden"),
        Mount(Path("/home/u/a"), "writable", 3),
        Mount(Path("/home/u/b"), "writable", 4),
    ]
    assert [len(step.parents) for step in arrange(steps, base="read-only")] == [0, 1, 0]


def test_a_directory_in_the_hosts_tmp_is_shown_within_the_views_own() -> None:
    steps: list[tuple[str, Kind]] = [("/tmp", "temporary"), ("/tmp/a/b", "writable")]
    assert arranged("read-only", *steps) == steps
