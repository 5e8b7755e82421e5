"""The faults of streams.yaml, as their page lists them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from choreo.errors import ConfigurationError
from choreo.wire import nodes, policy_yaml, saga_yaml, streams_yaml
from choreo.wire.streams_yaml import load, parse
from tests.docs.pages import all_pages, code, page

LOADER = (streams_yaml.__file__, saga_yaml.__file__, nodes.__file__, policy_yaml.__file__)
PAGE = page("docs/reference/streams-yaml.md")
TEXTS = [(code(cell), said) for cell, said in PAGE.rows("Its text")]
SECTIONS = [(code(cell), said) for cell, said in PAGE.rows("What it says")]
BASE = next(block.text for block in PAGE.blocks if "Refused" in block.text)


def with_section(section: str) -> str:
    """The page's small file with one section put in or exchanged."""
    sections = {line.partition(":")[0]: line for line in BASE.splitlines()}
    return "\n".join((sections | {section.partition(":")[0]: section}).values())


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return [fault.what for fault in caught.value.faults]


def test_the_small_file_is_right() -> None:
    """The file into which the page puts faults has none itself."""
    assert parse(BASE).namespace == "shop"


@pytest.mark.parametrize(("text", "said"), TEXTS)
def test_what_is_said_of_a_text(text: str, said: str) -> None:
    """The file of the left column is refused with the words of the right one."""
    words = said.removesuffix("...").strip()
    assert any(fault.startswith(words) if said.endswith("...") else fault == words for fault in faults(text))


@pytest.mark.parametrize(("section", "said"), SECTIONS)
def test_what_is_said_of_a_section(section: str, said: str) -> None:
    """The section of the left column is refused with the words of the right one."""
    assert said in faults(with_section(section))


def test_what_is_said_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are not UTF-8 are refused as the page says."""
    said = dict(PAGE.rows("The file itself"))
    (tmp_path / "latin.yaml").write_bytes("namespace: \xe9".encode("latin-1"))
    found = {}
    for what, path in {
        "there is no such file": tmp_path / "none.yaml",
        "it is a folder": tmp_path,
        "it is not UTF-8": tmp_path / "latin.yaml",
    }.items():
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        found[what] = caught.value.faults[0].what
    assert found.items() <= said.items()


def test_a_character_that_cannot_stand_in_yaml_is_named() -> None:
    """The page's example of such a character is what is said."""
    assert "character '\\x00' cannot stand in YAML; take it out" in faults("namespace: \x00")
    assert "`character '\\x00' cannot stand in\nYAML; take it out`" in PAGE.text


def test_the_page_shows_every_fault_there_is() -> None:
    """The examples of the page reach every place in the loader that reports a fault."""
    reported = {(path, lines) for path in LOADER for lines in reporting(path)}
    with lines_run() as run:
        for text in (*(text for text, _ in TEXTS), *(with_section(section) for section, _ in SECTIONS)):
            faults(text)
    # An event type of more than 128 characters and the control character are told in words.
    with lines_run() as told:
        faults(with_section(f"streams: {{orders: {{events: [{'A' * 200}]}}}}"))
        faults("namespace: \x00")
    unreached = {
        (Path(path).name, lines[0])
        for path, lines in reported
        if not any((path, line) in run | told for line in lines)
    }
    assert not unreached


def reporting(path: str) -> Iterator[tuple[int, ...]]:
    """The lines of each call that reports a fault, outside of the functions that make one of another."""
    tree = ast.parse(Path(path).read_text("utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("fault", "refuse")
        ):
            yield tuple(range(node.lineno, (node.end_lineno or node.lineno) + 1))


@contextmanager
def lines_run() -> Iterator[set[tuple[str, int]]]:
    """The (file, line) of the loader that run in the block."""
    run: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in LOADER:
            return None
        if event == "line":
            run.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield run
    finally:
        sys.settrace(before)


def test_the_example_of_the_page_is_right() -> None:
    """The first file of the page is accepted, and says all that the table of keys names but ``all``."""
    example = next(block.text for block in PAGE.blocks if block.language == "yaml")
    topology = parse(example)
    assert topology.redis
    assert topology.participants
    assert topology.sagas["order"].aborts_with
    assert topology.sagas["order"].deadlines.whole
    assert topology.sagas["order"].deadlines.expects


def test_the_table_of_keys_is_complete() -> None:
    """The table has every key that the loader accepts, and no other."""
    accepted = {
        *known("zzz: 1"),
        *(f"defaults.{key}" for key in known("defaults: {zzz: 1}")),
        *(f"defaults.retry.{key}" for key in known("defaults: {retry: {zzz: 1}}")),
        *(f"streams.<name>.{key}" for key in known("streams: {orders: {zzz: 1}}")),
        *(f"sagas.<name>.{key}" for key in known("sagas: {order: {zzz: 1}}")),
        *(f"sagas.<name>.expects[].{key}" for key in known("sagas: {order: {expects: [{zzz: 1}]}}")),
    }
    assert {code(row[0]) for row in PAGE.rows("Keys")} == accepted


def known(section: str) -> list[str]:
    """The keys that the loader says it knows where it finds ``zzz``."""
    (said,) = [fault for fault in faults(with_section(section)) if fault.startswith("unknown key `zzz`")]
    return said.partition("known here: ")[2].split(", ")


def test_the_defaults_of_the_page_hold() -> None:
    """A file that leaves everything out is as if it gave the defaults of the table."""
    told = {code(row[0]): code(row[2]) for row in PAGE.rows("Keys")}
    names = ("attempts", "first", "factor", "limit", "jitter")
    retry = ", ".join(f"{name}: {told[f'defaults.retry.{name}']}" for name in names)
    given = f"{BASE}partitions: {told['partitions']}\ndefaults: {{retry: {{{retry}}}}}\n"
    bare, full = parse(BASE), parse(given)
    assert (bare.partitions, bare.defaults) == (full.partitions, full.defaults)
    assert told["defaults.timeout"] == "no limit"
    assert bare.defaults.timeout is None


def test_yaml_of_the_other_pages_is_yaml() -> None:
    """Every YAML block of every page can be read; whole files are right."""
    for each in all_pages():
        for block in each.blocks:
            if block.language == "yaml":
                content = yaml.safe_load(block.text)
                if "namespace" in content:
                    parse(block.text)
