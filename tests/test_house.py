"""The rules of the house that ruff, mypy and import-linter cannot state. Each test names what breaks it, and where."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICE = sorted((ROOT / "agent_service").rglob("*.py"))
CLIENT = sorted((ROOT / "client").rglob("*.py"))
LONGEST_FILE = 400
PROGRAMS = ("subreaper.py", "landlock.py")
"""Programs in the package: nobody calls their functions."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def test_the_environment_is_read_only_in_main() -> None:
    expect_none(
        f"{where(path, node)} reads the environment"
        for path in SERVICE
        if path.name != "__main__.py"
        for node in ast.walk(parse(path))
        if reads_environment(node)
    )


def test_no_file_is_longer_than_one_can_read_in_a_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SERVICE + CLIENT}
    expect_none(f"{name(path)} has {length} lines" for path, length in lengths.items() if length > LONGEST_FILE)


def test_every_module_says_what_it_is() -> None:
    expect_none(f"{name(path)} has no docstring" for path in SERVICE + CLIENT if not ast.get_docstring(parse(path)))


def test_every_public_name_of_the_service_says_what_it_does() -> None:
    expect_none(
        f"{where(path, node)} {node.name} has no docstring"
        for path in SERVICE
        if path.name not in PROGRAMS
        for node in undocumented(parse(path))
    )


def test_no_module_of_a_room_is_imported_around_its_face() -> None:
    faces = {path.parent.name for path in SERVICE if path.name == "__init__.py" and "__all__" in path.read_text()}
    expect_none(
        f"{where(path, node)} imports {module}: take it from agent_service.{room}"
        for path in SERVICE
        for node in ast.walk(parse(path))
        for module in imported(node)
        if (room := module.removeprefix("agent_service.").split(".")[0]) in faces
        if module.count(".") > 1 and path.relative_to(ROOT / "agent_service").parts[0] != room
    )


def test_the_contract_imports_nothing_but_well_known_types() -> None:
    imports = re.findall(
        r'^import (?:public |weak )?"(.+)";', (ROOT / "proto" / "agent.proto").read_text(), re.MULTILINE
    )
    expect_none(each for each in imports if not each.startswith("google/protobuf/"))


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), start=list(project["dependencies"]))
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    missing = {normal(re.split(r"[^\w.-]", each)[0]) for each in wanted} - {normal(each) for each in locked}
    expect_none(f"{each} is not in requirements-dev.lock: run `make lock`" for each in sorted(missing))


def test_tests_run_with_the_packages_that_users_install() -> None:
    pins = re.compile(r"^[\w.-]+==\S+", re.MULTILINE)
    of_users, of_tests = (
        set(pins.findall((ROOT / lock).read_text())) for lock in ("requirements.lock", "requirements-dev.lock")
    )
    expect_none(f"{each} is not in requirements-dev.lock: run `make lock`" for each in sorted(of_users - of_tests))


def test_no_tracked_file_names_an_index_or_this_machine() -> None:
    # The names are put together here, so that this file does not name them either.
    hosts = [r"pypi\." + "org", "python" + "hosted", "npm" + r"js\.", r"proxy\.go" + "lang", "index-url[ =]+[\"']?http"]
    places = [re.escape(str(ROOT))] + [re.escape(str(home)) for home in [Path.home()] if len(home.parts) > 2]
    banned = re.compile("|".join(hosts + [f"{place}(?![\\w.-])" for place in places]))
    expect_none(
        f"{path}:{number}: {found[0]}"
        for path in tracked_files()
        for number, line in enumerate(lines(ROOT / path), start=1)
        if (found := banned.search(line))
    )


def test_every_path_of_the_project_that_documentation_names_is_there() -> None:
    # Documents name files of the project in backquotes, in links, and in tables bare.
    named = re.compile(
        r"(?<![\w./-])((?:tests|docs|examples|tools|benchmarks|proto)/[\w./-]*\w|agent_service/[\w./-]*\w)"
    )
    expect_none(
        f"{path}: {place}"
        for path in tracked_files()
        if path.endswith(".md") and path != "CHANGELOG.md" and "/adr/" not in path
        for place in named.findall((ROOT / path).read_text())
        if not (ROOT / place).exists()
    )


def test_a_session_s_record_is_written_in_journal_update_only() -> None:
    expect_none(
        f"{where(path, node)} writes a session's record outside `with journal.update()`"
        for path in SERVICE
        if path.name != "journal.py"
        for function in ast.walk(parse(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in record_writes(function)
    )


def test_a_session_moves_by_the_table_only() -> None:
    expect_none(
        f"{where(path, node)} sets a session's state or phase itself: use states.move"
        for path in SERVICE
        if path.name != "states.py"
        for scope in ast.walk(parse(path))
        if isinstance(scope, ast.With) and "update" in ast.unparse(scope.items[0].context_expr)
        for node in ast.walk(scope)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in ("state", "phase")
        if isinstance(node.value, ast.Name) and node.value.id in bound_by(scope)
    )


def test_options_are_merged_in_one_place() -> None:
    places = {name(path) for path in SERVICE for node in ast.walk(parse(path)) if calls(node, "merge")}
    assert places == {"agent_service/session/turn_options.py"}


def expect_none(found: Iterable[str]) -> None:
    """Fail with all that was found, a line each."""
    if listed := list(found):
        pytest.fail("\n".join(listed), pytrace=False)


def undocumented(module: ast.Module) -> list[Definition]:
    """Public classes, functions and methods that nothing describes. A method's twin in the same file may do it."""
    public = list(public_definitions(module))
    described = {node.name for node in public if ast.get_docstring(node)}
    methods = {id(node) for each in public if isinstance(each, ast.ClassDef) for node in each.body}
    return [
        node for node in public if not ast.get_docstring(node) and not (id(node) in methods and node.name in described)
    ]


def public_definitions(scope: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """All that a caller may name; what overrides a class of another module, overloads or sets is described there."""
    elsewhere = {"override", "overload", "setter"}
    for node in scope.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if not {getattr(each, "id", getattr(each, "attr", "")) for each in node.decorator_list} & elsewhere:
            yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node)


def calls(node: ast.AST, function: str) -> bool:
    """Whether it calls a function of this name, whatever module it is taken from."""
    if not isinstance(node, ast.Call):
        return False
    return function in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))


MUTATORS = frozenset(
    [
        "CopyFrom",
        "MergeFrom",
        "Clear",
        "ClearField",
        "SetInParent",
        "ParseFromString",
        "FromMicroseconds",
        "FromSeconds",
        "GetCurrentTime",
        "append",
        "extend",
        "insert",
        "pop",
        "remove",
        "clear",
        "update",
        "add",
        "get_or_create",
    ]
)


def record_writes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Writes to what is named `record` or came from an attribute of that name, unless `update` has bound the name."""
    aliases = {argument.arg for argument in function.args.args if is_session(argument.annotation)}
    own: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.With):
            own |= bound_by(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "record":
            aliases |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Assign) and ast.unparse(node.value) == "pb.Session()":
            own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(function):
        if any(is_record(root, aliases - own) for root in written(node)):
            yield node


def is_session(annotation: ast.expr | None) -> bool:
    """Whether a parameter is a session's record."""
    return annotation is not None and ast.unparse(annotation) == "pb.Session"


def bound_by(scope: ast.With) -> set[str]:
    """Names that a `with ….update() as name` binds."""
    return {
        item.optional_vars.id
        for item in scope.items
        if isinstance(item.optional_vars, ast.Name) and ast.unparse(item.context_expr).endswith(".update()")
    }


def written(node: ast.AST) -> Iterator[ast.expr]:
    """The objects that a node changes: what stands before the last dot or bracket of a target or a mutating call."""
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        yield node.func.value


def is_record(node: ast.expr, aliases: set[str]) -> bool:
    """Whether an expression is a record, or a part of one."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute) and node.attr == "record":
            return True
        node = node.value
    return isinstance(node, ast.Name) and node.id in aliases


def imported(node: ast.AST) -> list[str]:
    """The modules of the service that a statement imports."""
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
    return [name for name in names if name.startswith("agent_service.")]


def reads_environment(node: ast.AST) -> bool:
    """Whether it is os.environ, os.getenv or one of their kind."""
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and bool(names & {each.name for each in node.names})
    return isinstance(node, ast.Attribute) and node.attr in names and getattr(node.value, "id", "") == "os"


def tracked_files() -> list[str]:
    """What git keeps; the test is skipped where there is no git."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [each for each in listed.stdout.split("\0") if each]


def lines(path: Path) -> list[str]:
    """The lines of a text file; none of a binary one, or of one that is gone."""
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def parse(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(), filename=str(path))


def where(path: Path, node: ast.AST) -> str:
    """A place to click on."""
    return f"{name(path)}:{getattr(node, 'lineno', 0)}"


def name(path: Path) -> str:
    """The path inside the project."""
    return str(path.relative_to(ROOT))


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
