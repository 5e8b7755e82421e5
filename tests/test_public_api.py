"""The front door: what `import choreo` gives, that it is documented, and that type checkers understand it."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import choreo
import choreo.errors as errors
from choreo import Event
from choreo.model.participant import Step, Undo

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = [(name, getattr(choreo, name)) for name in choreo.__all__]


# -- names -------------------------------------------------------------------------------------------


def test_public_names_are_sorted() -> None:
    """`__all__` is sorted and names nothing twice, so that a change shows in one line."""
    assert choreo.__all__ == sorted(set(choreo.__all__))


def test_the_front_door_has_everything_that_users_write() -> None:
    """The names that examples and documentation use are there."""
    assert {"Abort", "ChoreoError", "Choreography", "Context", "Event", "Participant"} <= set(choreo.__all__)


def test_nothing_public_is_left_out() -> None:
    """Every name without underscore in the front door is exported; there are no accidents."""
    tree = ast.parse((ROOT / "choreo" / "__init__.py").read_text("utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }  # fmt: skip
    assert {name for name in imported if name[0].isupper()} - {"TYPE_CHECKING", "Any"} == set(choreo.__all__)


def public_members(owner: Any) -> list[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    return [
        (name, member)
        for name, member in vars(owner).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, (property, classmethod)))
    ]


@pytest.mark.parametrize(("name", "thing"), [*PUBLIC, ("Step", Step), ("Undo", Undo)])
def test_everything_public_is_documented(name: str, thing: Any) -> None:
    """Each public class has a docstring of its own, and each of its public methods and properties."""
    assert thing.__doc__, f"{name} has no docstring"
    if inspect.isclass(thing):
        for member_name, member in public_members(thing):
            function = member.__func__ if isinstance(member, classmethod) else member
            assert inspect.getdoc(function), f"{name}.{member_name} has no docstring"


def test_the_fields_of_a_context_are_documented() -> None:
    """What a handler is told is explained, field by field."""
    tree = ast.parse((ROOT / "choreo" / "model" / "context.py").read_text("utf-8"))
    (context,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Context"
    )
    for field, after in zip(context.body, context.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert explained, f"Context.{ast.unparse(field.target)}"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "choreo").rglob("*.py") if "templates" not in path.parts),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_public_classes_and_functions_are_documented(path: Path) -> None:
    """Within the package too: every public class and function at the top of a module has a docstring."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name[0] != "_":
            assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name}"


def test_the_package_says_that_it_is_typed() -> None:
    """py.typed is there and is packaged."""
    assert files("choreo").joinpath("py.typed").is_file()
    assert "py.typed" in (ROOT / "pyproject.toml").read_text("utf-8")


# -- errors ------------------------------------------------------------------------------------------


def drawn_tree() -> list[tuple[str, str]]:
    """Name and parent of each error, as the docstring of choreo.errors draws them."""
    stack: list[tuple[int, str]] = []
    drawn = []
    for line in (errors.__doc__ or "").splitlines():
        body = line.lstrip(" │├└─")
        name = body.split(" ")[0]
        if not line.startswith("    ") or not name.isidentifier():
            continue
        depth = len(line) - len(body)
        while stack and stack[-1][0] >= depth:
            stack.pop()
        drawn.append((name, stack[-1][1] if stack else "Exception"))
        stack.append((depth, name))
    return drawn


def test_the_tree_of_errors_is_as_drawn() -> None:
    """The tree in the docstring of choreo.errors is the tree of the classes, whole."""
    real = {
        (name, thing.__bases__[0].__name__)
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, errors.ChoreoError)
    }
    assert set(drawn_tree()) == real


def test_abort_is_no_error_of_choreos() -> None:
    """`except ChoreoError` does not swallow what a handler says on purpose."""
    assert not issubclass(errors.Abort, errors.ChoreoError)
    assert errors.Abort("sold out").reason == "sold out"
    assert errors.Abort().reason == ""


def test_no_error_of_choreos_is_defined_elsewhere() -> None:
    """Errors stand in one module. What is defined elsewhere refines an error of the broker, for inner use."""
    known = {errors.ChoreoError}
    for path in (ROOT / "choreo").rglob("*.py"):
        if path.name == "__main__.py" or "templates" in path.parts:
            continue
        importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
    found = set()
    while known:
        found |= known
        known = {each for error in known for each in error.__subclasses__()} - found
    elsewhere = {each for each in found if each.__module__ != "choreo.errors"}
    assert all(issubclass(each, errors.BrokerError) for each in elsewhere), elsewhere


# -- events ------------------------------------------------------------------------------------------


def test_events_are_immutable_values() -> None:
    """Events compare by their fields, can be members of sets, and cannot be changed."""

    class Placed(Event):
        amount: int

    assert Placed(1) == Placed(amount=1) != Placed(2)
    assert len({Placed(1), Placed(1)}) == 1
    with pytest.raises(AttributeError):
        Placed(1).amount = 2  # type: ignore[misc]


# -- types -------------------------------------------------------------------------------------------

SNIPPET = """
from typing import assert_type

from choreo import Abort, Choreography, Context, Event, Participant


class Placed(Event):
    order: str
    amount: int = 0


class Paid(Event):
    amount: int


payments = Participant("payments")


@payments.on(Placed)
async def charge(placed: Placed, ctx: Context) -> Paid | None:
    if placed.amount > 5:
        raise Abort("too much")
    ctx.emit(Paid(amount=1))
    return Paid(placed.amount)


@charge.undo
async def refund(placed: Placed, paid: Paid | None, ctx: Context) -> None:
    key: str = ctx.key
    undoes: str | None = ctx.undoes


@payments.on_all(Placed, Paid)
def both(placed: Placed, paid: Paid) -> list[Paid]:
    return [paid]


async def use() -> None:
    assert_type(Placed("a").amount, int)
    assert_type(await charge.function(Placed("a"), context()), Paid | None)
    assert_type(both.function(Placed("a"), Paid(1)), list[Paid])
    async with Choreography.open("streams.yaml", redis="redis://localhost") as choreo:
        assert_type(await choreo.start(Placed(order="a"), saga_id="a"), str)
        view = await choreo.wait("a", timeout=1)
        assert_type(view.events, int)
        views = await choreo.sagas(saga_type="order", states=["running"])
        assert_type([each.id for each in views], list[str])
        trace = await choreo.trace("a")
        assert_type(trace.saga.id, str)


def context() -> Context:
    return Context("a", "order", "payments", "charge", "e1", "k1")
"""

MISTAKES = {
    'Placed("a").amount = 2': "misc",
    "Placed(5)": "arg-type",
    "Placed()": "call-arg",
    'Placed("a", amount="much")': "arg-type",
    'Placed("a").price': "attr-defined",
    'charge.function("a", context())': "arg-type",
    "payments.on(int)": "arg-type",
    'Participant("p", lifespan=5)': "arg-type",
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of the snippet, and of the snippet followed by one mistake per line."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("typed")
    right, wrong = folder / "right.py", folder / "wrong.py"
    right.write_text(SNIPPET)
    wrong.write_text(SNIPPET + "\n" + "\n".join(MISTAKES) + "\n")
    options = [
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(ROOT / ".mypy_cache" / "users"),
        "--config-file",
        "",
    ]
    command = [sys.executable, "-m", "mypy", *options, str(right), str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_type_checkers_understand_what_users_write(typed: list[str]) -> None:
    """Events, steps, undos and the client pass mypy's strict mode, with their types kept."""
    assert [line for line in typed if "right.py" in line] == []


def test_type_checkers_find_mistakes(typed: list[str]) -> None:
    """Wrong fields, changed events and wrong arguments are found before anything runs."""
    first = SNIPPET.count("\n") + 2
    found = {}
    for line in typed:
        if "wrong.py" in line and ": error:" in line:
            number = int(line.split(":")[1])
            found[number - first] = line.rpartition("[")[2].rstrip("]")
    assert [found.get(number) for number in range(len(MISTAKES))] == list(MISTAKES.values()), typed
