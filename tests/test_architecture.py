"""The rooms and their arrows, read from the source: who may import whom, and how large things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "choreo"
#: What new projects are made of: the code of others.
TEMPLATES = PACKAGE / "templates"
#: Each room with the rooms that it may import from. A room may always import from itself.
ARROWS = {
    "errors": set(),
    "model": {"errors"},
    "wire": {"model", "errors"},
    "broker": {"wire", "model", "errors"},
    "runtime": {"broker", "wire", "model", "errors"},
    "tracker": {"broker", "wire", "model", "errors"},
    "doctor": {"broker", "wire", "model", "errors"},
    "operations": {"broker", "wire", "model", "errors"},
    "choreography": {"operations", "tracker", "broker", "wire", "model", "errors"},
    "local": {"choreography", "runtime", "tracker", "broker", "wire", "model", "errors"},
    "loading": {"wire", "model", "errors"},
    "projects": {"errors"},
    "drawing": {"wire", "model", "errors"},
    "testing": {"local", "choreography", "loading", "drawing", "runtime", "tracker", "broker", "wire", "model",
                "errors", "choreo"},
    "cli": {"local", "choreography", "doctor", "loading", "projects", "drawing", "runtime", "tracker", "broker",
            "wire", "model", "errors", "choreo", "testing"},
    # The front door: names for users. What needs redis it imports only when asked for.
    "choreo": {"choreography", "model", "errors"},
}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_ARGUMENTS = 7

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def modules_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if TEMPLATES not in path.parents)


MODULES = modules_of(PACKAGE)
TREES = {path: ast.parse(path.read_text("utf-8")) for path in [*MODULES, *modules_of(ROOT / "participants")]}
EACH_MODULE = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a module: what stands after ``choreo``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


NAMES = {name_of(path) for path in TREES}


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """The modules that ``path`` imports; with ``at_import`` only those that importing it imports."""
    for node in _executed(TREES[path]) if at_import else ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else node.module


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: neither functions nor what is for type checkers."""
    for node in ast.iter_child_nodes(tree):
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, FUNCTIONS) and not type_checking:
            yield node
            yield from _executed(node)


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in MODULES:
        for node in ast.walk(TREES[path]):
            if isinstance(node, FUNCTIONS):
                yield path, node


# -- arrows ------------------------------------------------------------------------------------------


def test_every_room_has_its_arrows() -> None:
    """A new room must be given its place in the table."""
    assert {room_of(name_of(path)) for path in MODULES} <= set(ARROWS)


@EACH_MODULE
def test_arrows_point_down(path: Path) -> None:
    """A module imports only from its own room and from rooms below it."""
    room = room_of(name_of(path))
    foreign = {room_of(name) for name in imports(path) if name.split(".")[0] == "choreo"} - {room}
    assert foreign <= ARROWS[room]


def test_runtime_and_tracker_do_not_know_each_other() -> None:
    """Sagas run without a tracker, and a tracker needs no participant."""
    assert "tracker" not in ARROWS["runtime"]
    assert "runtime" not in ARROWS["tracker"]


@EACH_MODULE
def test_only_the_broker_knows_redis(path: Path) -> None:
    """Nothing outside choreo/broker imports the client library, not even within a function."""
    if room_of(name_of(path)) != "broker":
        assert not {name for name in imports(path) if name.split(".")[0] in ("redis", "fakeredis", "valkey")}


@EACH_MODULE
def test_pure_rooms_do_no_input_or_output(path: Path) -> None:
    """The model is pure: no clock, no randomness, no files, no network, no tasks."""
    impure = {"asyncio", "anyio", "os", "pathlib", "random", "secrets", "socket", "threading", "time", "uuid",
              "logging", "subprocess"}  # fmt: skip
    if room_of(name_of(path)) == "model":
        assert not impure & {name.split(".")[0] for name in imports(path)}


def test_no_module_imports_itself_in_a_circle() -> None:
    """There is an order in which the modules can be read, each after what it needs."""
    graph = {
        name_of(path): {
            name for name in imports(path, at_import=True) if name in NAMES and name != name_of(path)
        }
        for path in MODULES
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")
    assert set(order) == {name_of(path) for path in MODULES}


def test_participants_know_only_contracts_and_choreo() -> None:
    """The reference shop's participants import choreo, the contracts, their store, and never one another.

    The contracts alone may use msgspec, for fields with bounds.
    """
    for path in modules_of(ROOT / "participants"):
        allowed = {"choreo", "participants.contracts", "participants.store"}
        if path.stem == "contracts":
            allowed = {"choreo", "msgspec"}
        for name in imports(path):
            assert name in allowed or name.split(".")[0] in sys.stdlib_module_names, f"{path}: {name}"


def test_importing_choreo_is_light() -> None:
    """A module of contracts pays for neither the server's client, nor the command line, nor YAML."""
    heavy = ("redis", "rich", "yaml", "click", "anyio", "asyncio")
    code = f"import sys, choreo; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_is_there_when_asked_for() -> None:
    """`choreo.Choreography` is imported on first use, and no other name appears out of nothing."""
    code = "import sys, choreo; choreo.Choreography.open; print('redis' in sys.modules); choreo.Missing"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True"
    assert done.stderr.strip().endswith("AttributeError: module 'choreo' has no attribute 'Missing'")


# -- keys --------------------------------------------------------------------------------------------

#: What a key has between its tag and what follows.
KEY_PARTS = (":stream:", ":inbox:", ":journal", ":dead", ":letters", ":saga:", ":work:", ":view:", ":trace:",
             ":index:", ":tracker", ":meta", ":contracts")  # fmt: skip


def spelled(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a module's code, docstrings aside."""
    documentation = {
        id(node.value)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@EACH_MODULE
def test_only_one_module_spells_keys(path: Path) -> None:
    """Key names are made in choreo/wire/keys.py and nowhere else."""
    if name_of(path) != "choreo.wire.keys":
        for line, text in spelled(path):
            assert not any(text.startswith((part, "}" + part)) for part in KEY_PARTS), (
                f"{path}:{line}: {text!r}"
            )


def test_that_module_does_spell_keys() -> None:
    """The search above finds keys where they are."""
    keys = PACKAGE / "wire" / "keys.py"
    found = {part for _, text in spelled(keys) for part in KEY_PARTS if text.startswith(part)}
    assert found == set(KEY_PARTS) - {":meta", ":contracts"} | {":meta", ":contracts"}


def test_scripts_are_given_their_keys() -> None:
    """No script puts a key together from a tag: the caller names keys and prefixes."""
    for script in (PACKAGE / "broker" / "scripts").glob("*.lua"):
        code = "\n".join(line.partition("--")[0] for line in script.read_text("utf-8").splitlines())
        for part in KEY_PARTS:
            assert f"'{part}" not in code, f"{script}: {part}"


# -- sizes -------------------------------------------------------------------------------------------


@EACH_MODULE
def test_modules_are_documented_and_short(path: Path) -> None:
    """Every module says what it is for, and can be read in one sitting."""
    assert ast.get_docstring(TREES[path]), f"{path} has no docstring"
    assert len(path.read_text("utf-8").splitlines()) <= MAX_MODULE_LINES


def test_functions_are_short() -> None:
    """A function's body, its docstring aside, has at most 40 lines."""
    for path, function in functions():
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        if body:
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path}:{function.lineno} {function.name} has {lines} lines"


def test_functions_take_few_arguments() -> None:
    """A function takes at most 7 arguments, self and cls aside. A command takes what its options are."""
    for path, function in functions():
        if any(".command(" in ast.unparse(each) for each in function.decorator_list):
            continue
        names = [
            each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        ]
        count = len([name for name in names if name not in ("self", "cls")])
        assert count <= MAX_ARGUMENTS, f"{path}:{function.lineno} {function.name} takes {count} arguments"


def test_functions_are_annotated() -> None:
    """Every parameter and every return of the package is annotated."""
    for path, function in functions():
        where = f"{path}:{function.lineno} {function.name}"
        assert function.returns is not None, f"{where} has no return annotation"
        arguments = function.args
        for each in (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ):
            assert each is None or each.annotation or each.arg in ("self", "cls"), f"{where}: {each.arg}"
