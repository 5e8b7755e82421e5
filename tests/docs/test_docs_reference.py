"""The reference pages against the code that they describe."""

from __future__ import annotations

import inspect
import io
import re
from binascii import crc_hqx
from collections.abc import Iterator
from typing import Any

import click
import msgspec
import pytest
from rich.console import Console

import choreo
from choreo import Choreography, Context, Participant, errors
from choreo.cli import failures
from choreo.cli.main import cli
from choreo.doctor.namespace import NAMESPACE_CHECKS
from choreo.doctor.server import SERVER_CHECKS
from choreo.drawing.trace_format import format_trace
from choreo.model import checks
from choreo.model.checks import Code, Severity
from choreo.model.facts import Kind, LastError, View
from choreo.model.participant import Step
from choreo.model.trace import Attempt, EventNode, Incident, Reaction, Trace
from choreo.model.waits import Awaited, Reading, Stuck
from choreo.wire import envelope, keys, limits
from choreo.wire.envelope import Envelope, Malformed, Reason
from tests.docs.pages import code, codes, page

API = page("docs/reference/python-api.md")
CLI = page("docs/reference/cli.md")
WIRE = page("docs/reference/wire-format.md")
REASONS = page("docs/reference/reason-codes.md")
JSON = page("docs/reference/json.md")


# -- wire format -------------------------------------------------------------------------------------


def test_the_envelope_is_told_as_in_the_code() -> None:
    """The page has each attribute of an envelope, and says which ones are required."""
    told = {code(name): required for name, required, _ in WIRE.rows("Envelope")}
    assert set(told) == {*Envelope.__struct_fields__, "specversion"}
    entry = {name.encode(): b"1" for name in told}
    for name, required in told.items():
        without = {key: value for key, value in entry.items() if key != name.encode()}
        if required == "yes":
            with pytest.raises(Malformed, match=name):
                envelope.parse(without)
        else:
            envelope.parse(without)


def test_the_envelope_is_told_in_the_same_order_as_in_the_module() -> None:
    """Page and docstring list the same attributes in the same order."""
    listed = re.findall(r"^``(\w+)``\s+(yes|no)", envelope.__doc__ or "", re.MULTILINE)
    assert [(code(row[0]), row[1]) for row in WIRE.rows("Envelope")] == listed


def test_keys_are_told_as_in_the_code() -> None:
    """Page and docstring list the same keys with the same types and meanings."""
    listed = re.findall(r"^``(\S+)``\s+(\w+)\s+(.+)$", keys.__doc__ or "", re.MULTILINE)
    assert [(code(key), kind, meaning) for key, kind, meaning in WIRE.rows("Keys")] == listed


def test_keys_are_made_as_the_page_says() -> None:
    """Every method that makes a key makes one of the page's."""
    made = keys.Keys("ns", 8)
    words = {"partition": 3, "name": "<name>", "participant": "<participant>", "saga_id": "<id>",
             "saga_type": "<type>", "state": "<state>"}  # fmt: skip
    whole = ("meta", "contracts", "paused")
    names = {f"ns:{name}": getattr(made, name) for name in whole}
    for name, method in inspect.getmembers(made, inspect.ismethod):
        if name.startswith("_") or name in ("partition", "inbox_prefix", "probe"):
            continue
        wanted = inspect.signature(method).parameters
        names[name] = method(**{parameter: words[parameter] for parameter in wanted})
    told = {code(key).replace("{ns:p}", "{ns:3}") for key, _, _ in WIRE.rows("Keys")}
    assert set(names.values()) == told


def test_limits_are_told_as_in_the_code() -> None:
    """Every limit of the code stands on the page with its number, and none other."""
    told = {int(re.sub(r"\D", "", row[1])) for row in WIRE.rows("Limits")}
    inner = {
        "MAX_BATCH", "MAX_BATCH_BYTES", "MAX_BLOCKED_LEASES", "MAX_DUE", "MAX_FORGOTTEN", "MAX_JOURNAL_BYTES",
        "MAX_TRIMMED", "MAX_UNREAD",
    }  # fmt: skip
    known = {
        value
        for name, value in vars(limits).items()
        if name.startswith("MAX_") and name not in inner and isinstance(value, int)
    }
    assert told == known


def test_the_check_value_of_the_partition_is_right() -> None:
    """The page on starting sagas gives the checksum that the code uses."""
    text = page("docs/how-to/start-sagas.md").text
    assert crc_hqx(b"123456789", 0) == 0x31C3
    assert keys.Keys("ns", 1024).partition("123456789") == 0x31C3 % 1024
    assert "0x31c3" in text


# -- reason codes ------------------------------------------------------------------------------------


def test_every_reason_of_a_dead_letter_is_told() -> None:
    """The page has every reason code, in the order of the code, and no other."""
    assert [code(row[0]) for row in REASONS.rows("Dead letters")] == [each.value for each in Reason]


def test_every_code_of_a_finding_is_told() -> None:
    """The page has every code that a check may find with its severity, and no other."""
    told = {code(row[0]): row[1] for row in REASONS.rows("Findings")}
    assert list(told) == [each.value for each in Code]
    source = inspect.getsource(checks)
    for each, severity in told.items():
        name = Code(each).name
        used = re.findall(rf"Severity\.(\w+)[^)]*?Code\.{name}\b", source)
        assert {Severity[found].value for found in used} <= set(severity.split(" or ")), each


def test_every_check_of_the_doctor_is_told() -> None:
    """The page has every check by its name, in the order in which they are told."""
    assert [code(row[0]) for row in REASONS.rows("Checks")] == [*SERVER_CHECKS, "layout", *NAMESPACE_CHECKS]


# -- JSON --------------------------------------------------------------------------------------------

STRUCTS: list[tuple[str, type[msgspec.Struct]]] = [
    ("View", View), ("Trace", Trace), ("Event", EventNode), ("Reaction", Reaction), ("Attempt", Attempt),
    ("Incident", Incident), ("Awaited", Awaited), ("Reading", Reading), ("Stuck", Stuck),
]  # fmt: skip


@pytest.mark.parametrize(("heading", "struct"), STRUCTS)
def test_every_attribute_of_the_json_is_told(heading: str, struct: type[msgspec.Struct]) -> None:
    """The page has each attribute with its default, in the order of the code."""
    told = {code(row[0]): row[1] for row in JSON.rows(heading) if len(row) == 3}
    assert told == {field.encode_name: default_of(field) for field in msgspec.structs.fields(struct)}


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{msgspec.json.encode(default).decode()}`"


def test_every_outcome_is_told() -> None:
    """The page has every kind of fact that can be a reaction's outcome, or an incident."""
    told = [code(row[0]) for row in JSON.rows("Reaction") if len(row) == 2]
    assert set(told) == {each.value for each in Kind}
    assert all(f"`{name}`" in JSON.text for name in LastError.__struct_fields__)


# -- Python ------------------------------------------------------------------------------------------


def test_every_public_name_is_told() -> None:
    """Each name of ``choreo.__all__`` is imported on the page and has a heading or is a base of errors."""
    imported = next(block.text for block in API.blocks if block.language == "python")
    assert sorted(re.findall(r"\w+", imported.partition("import")[2])) == sorted(choreo.__all__)
    told = " ".join(API.headings)
    assert all(re.search(rf"\b{name}\b", told) for name in choreo.__all__ if name != "ChoreoError")


def public_members() -> Iterator[tuple[str, Any]]:
    for owner in (Choreography, Participant, Step, Context):
        for name, member in inspect.getmembers_static(owner):
            if not name.startswith("_"):
                yield f"{owner.__name__}.{name}", getattr(owner, name, member)


def test_every_public_method_is_told_with_its_parameters() -> None:
    """Each public method of the four classes has a heading with its parameters and defaults."""
    headings = {heading for line in API.headings for heading in split_headings(line)}
    attributes = set(codes(API.section("Context")))
    for name, member in public_members():
        owner, _, attribute = name.partition(".")
        if owner == "Context" and not inspect.isfunction(member):
            assert attribute in attributes, name
        elif inspect.isroutine(member):
            assert f"{name}({parameters(member)})" in headings, name
        else:
            assert name in headings, name


def split_headings(heading: str) -> list[str]:
    return [heading] if "(" in heading else heading.split(", ")


def parameters(function: Any) -> str:
    """The parameters of a function without annotations, as they are called."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    text = str(inspect.Signature(plain)).removeprefix("(").removesuffix(")")
    return text.replace("'", '"')


def test_attributes_of_instances_are_told() -> None:
    """What a participant and a step know of themselves is on the page."""
    participant = Participant("p")

    class Began(choreo.Event):
        pass

    @participant.on(Began)
    def react(event: Began) -> None:
        pass

    headings = {heading for line in API.headings for heading in split_headings(line)}
    for instance in (participant, react):
        for name in vars(instance):
            if not name.startswith("_"):
                assert f"{type(instance).__name__}.{name}" in headings


def test_no_heading_tells_of_what_is_not_there() -> None:
    """Every method and attribute that has a heading is there."""
    owners = {"Choreography": Choreography, "Participant": Participant, "Step": Step, "Context": Context}
    instance_only = {"Participant": {"name", "lifespan"}, "Step": set(inspect.getsource(Step).split("self."))}
    for line in API.headings:
        for heading in split_headings(line):
            owner, dot, rest = heading.partition(".")
            name = rest.partition("(")[0]
            if dot and owner in owners and not hasattr(owners[owner], name):
                attributes = instance_only.get(owner, set())
                assert any(each == name or each.startswith(f"{name} ") for each in attributes), heading


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    """Page and module draw the same tree, and it has every error."""
    drawn = next(block.text for block in API.blocks if block.text.startswith("ChoreoError"))
    in_code = inspect.cleandoc((errors.__doc__ or "").partition("::")[2].partition("Who is")[0])
    assert drawn.strip() == in_code.strip()
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    assert all(each.__name__ in drawn for each in classes if issubclass(each, errors.ChoreoError))


# -- command line ------------------------------------------------------------------------------------


def commands(group: click.Command = cli, path: str = "choreo") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}")
    else:
        yield path, group


SHARED = {"--config", "--redis", "--verbose", "--help"}
COMMANDS = dict(commands())


def test_every_command_is_told() -> None:
    """Each command has a heading, and each heading that looks like a command is one."""
    told = {heading for heading in CLI.headings if heading.startswith("choreo ")}
    assert told == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_told(name: str) -> None:
    """The table of a command has its arguments and options with their names and defaults, and no others."""
    told = {tuple(codes(row[0])): code(row[1]) for row in CLI.rows(name) if codes(row[0])[0] not in SIGNS}
    there = {}
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "hidden", False) or SHARED & set(parameter.opts):
            continue
        there[names_of(parameter)] = default_text(parameter)
    assert set(told) == set(there)
    for names, default in there.items():
        assert told[names] == default or default is None, names


SIGNS = {row[0].strip("`") for row in CLI.rows("choreo trace") if len(row) == 2}


def names_of(parameter: click.Parameter) -> tuple[str, ...]:
    if isinstance(parameter, click.Argument):
        return (parameter.make_metavar(click.Context(cli)),)
    return tuple(parameter.opts)


def default_text(parameter: click.Parameter) -> str | None:
    """What the page must say of a default; ``None`` if it says it in words."""
    if parameter.required:
        return "required"
    if getattr(parameter, "show_default", False):
        return str(parameter.default)
    return None


def test_options_of_every_command_are_told() -> None:
    """The options that all commands share are told once, and every command has them: but `init`, which needs
    no streams.yaml."""
    told = {name for row in CLI.rows("Options of every command") for name in codes(row[0])}
    assert told >= SHARED
    for name, command in COMMANDS.items():
        offered = {option for parameter in command.params for option in parameter.opts}
        assert name == "choreo init" or SHARED - {"--help"} <= offered, name


def test_exit_codes_are_told_as_in_the_code() -> None:
    """Page and module give the same exit codes the same meanings."""
    listed = re.findall(r"^(\d+)\s{2,}(.+(?:\n {6}.+)*)$", failures.__doc__ or "", re.MULTILINE)
    in_code = {number: " ".join(meaning.split()) for number, meaning in listed}
    assert dict(CLI.rows("Exit codes")) == in_code


def test_every_sign_of_the_trace_is_told() -> None:
    """The page explains each sign with which a line of a trace begins, whatever a step came to."""
    steps = [Reaction("p", "step", kind) for kind in Kind if kind not in UNDOS | INCIDENTS]
    undos = [Reaction("p", "step", kind, undo="undo") for kind in UNDOS]
    event = EventNode("id", "Began", 1, 0, reactions=steps + undos)
    incidents = [Incident(kind, 1, 0) for kind in INCIDENTS]
    trace = Trace(View("saga"), [event], incidents, [Awaited("step", "Began", "p/step")])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(format_trace(trace, now=1))
    lines = [line.lstrip("+0123456789 ms│├└─") for line in console.export_text().splitlines()[2:]]
    drawn = {line.partition(" ")[0] for line in lines if line[:1] and not line[0].isalnum()}
    assert drawn <= SIGNS
    assert {"●", "✓", "✗", "→"} <= drawn


UNDOS = {Kind.UNDONE, Kind.STUCK}
INCIDENTS = {Kind.ORDERED, Kind.REFUSED}
