"""Everything that the pages tell the reader to type or to write, done."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from choreo.broker.engine import EngineProcess, discover
from choreo.projects import templates
from tests.docs.pages import ROOT, Page, all_pages, page
from tests.docs.terminal import Terminal, terminal, typed

pytestmark = pytest.mark.processes


@contextmanager
def shop(folder: Path, **environment: str) -> Iterator[Terminal]:
    """A terminal in a folder with the reference shop, whose data begin empty."""
    for name in ("streams.yaml", "participants", "examples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    with terminal(folder, {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment}) as opened:
        yield opened


@contextmanager
def served_shop(folder: Path, settings: dict[str, str] | None = None) -> Iterator[Terminal]:
    """The shop beside a server that the environment names; nothing else runs."""
    with (
        EngineProcess(folder / "server", extra=settings or {}) as server,
        shop(folder, CHOREO_REDIS_URL=server.url) as opened,
    ):
        yield opened


@contextmanager
def running_shop(folder: Path) -> Iterator[Terminal]:
    """The shop, run by ``choreo dev``."""
    with shop(folder) as opened:
        opened.type("choreo dev", ["choreo is running (Ctrl-C stops it)"])
        url = discover(folder / ".choreo")
        assert url
        opened.environment["CHOREO_REDIS_URL"] = url
        yield opened


def test_whoever_follows_the_readme_sees_what_it_says(tmp_path: Path) -> None:
    """The README's commands work in their order and print what it shows; the first is the tour."""
    with shop(tmp_path) as reader:
        reader.follow(page("README.md"))


def test_whoever_follows_the_tutorial_sees_what_it_says(tmp_path: Path) -> None:
    """Every file and command of the tutorial works, from an empty folder, and prints what the page shows."""
    with terminal(tmp_path) as reader:
        reader.follow(page("docs/tutorial.md"))


def test_whoever_follows_the_tutorial_of_testing_sees_what_it_says(tmp_path: Path) -> None:
    """Its tests fail and pass as the page says, from an empty folder."""
    with terminal(tmp_path, {"PYTEST_PLUGINS": "choreo.testing.plugin"}) as reader:
        reader.follow(page("docs/tutorial-testing.md"))


def test_every_template_is_among_the_examples() -> None:
    """The page of examples lists each template that `choreo init` knows, and no other."""
    found = page("docs/how-to/start-from-an-example.md").rows("How to start from an example")
    assert {re.sub(r"\[(.+)\].*", r"\1", row[0]) for row in found} == set(templates())


@pytest.mark.parametrize(
    "name", ["how-to/start-sagas.md", "how-to/change-contracts.md", "reference/cli.md"]
)
def test_a_page_about_a_running_shop_is_right(tmp_path: Path, name: str) -> None:
    """What the page tells to type works while the shop is running, and prints what it shows."""
    with running_shop(tmp_path) as reader:
        reader.follow(page(f"docs/{name}"))


def test_deadlines_pass_as_the_page_says(tmp_path: Path) -> None:
    """The files and commands of the page about deadlines, from an empty folder."""
    with terminal(tmp_path) as reader:
        reader.follow(page("docs/how-to/use-deadlines.md"))


def test_choreographies_are_tested_as_the_page_says(tmp_path: Path) -> None:
    """The files and commands of the page about testing, from an empty folder."""
    with terminal(tmp_path, {"PYTEST_PLUGINS": "choreo.testing.plugin"}) as reader:
        reader.follow(page("docs/how-to/test-a-choreography.md"))


def test_stuck_sagas_are_found_as_the_page_says(tmp_path: Path) -> None:
    """The page about stuck sagas, with a server where nothing runs but what the page starts."""
    with served_shop(tmp_path) as reader:
        reader.follow(page("docs/how-to/find-a-stuck-saga.md"))


def test_production_runs_as_the_page_says(tmp_path: Path) -> None:
    """The page about production, on a server with its settings."""
    production = page("docs/how-to/run-in-production.md")
    (text,) = [block.text for block in production.blocks if block.language == "conf"]
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    with served_shop(tmp_path, dict(lines)) as reader:
        reader.follow(production)


def test_the_rights_of_the_page_are_enough(tmp_path: Path) -> None:
    """The shop works for the user that the page makes, and that user may do nothing with other keys."""
    production = page("docs/how-to/run-in-production.md")
    consoles = [block for block in production.blocks if block.language == "console"]
    commands = [command for block in consoles for command, _ in typed(block)]
    (grant,) = [command for command in commands if " ACL SETUSER " in command]
    with served_shop(tmp_path) as reader:
        reader.type(grant, ["OK"])
        admin = reader.environment["CHOREO_REDIS_URL"]
        reader.environment["CHOREO_REDIS_URL"] = admin.replace("unix://", "unix://shop:secret@")
        reader.type("choreo dev", ["choreo is running (Ctrl-C stops it)"])
        for example, end in (("ships", "✓ completed in 1 ms"), ("too-late", "...")):
            command = f"choreo start OrderPlaced --file examples/orders/{example}.json --wait"
            reader.type(command, ["...", end])
        reader.type("choreo sagas", ["✓ completed ...", "↶ compensated ..."])
        reader.type("choreo tracker rebuild", ["projected ..."])
        reader.type("redis-cli SET other 1", [])
        reader.type("echo $?", ["1"])


# -- code that is not typed at a terminal ------------------------------------------------------------


def snippets(each: Page) -> list[str]:
    """The page's Python that is in no file."""
    return [block.text for block in each.blocks if block.language == "python" and not block.file]


WITH_SNIPPETS = [each for each in all_pages() if snippets(each) and each.path.name != "README.md"]


@pytest.mark.parametrize("each", WITH_SNIPPETS, ids=str)
def test_the_python_of_a_page_runs(each: Page, tmp_path: Path) -> None:
    """The Python blocks of a page, one after the other, are a program that runs without an error."""
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(snippets(each)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name], cwd=tmp_path, check=False, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class ToyBank:
    """The bank of the README's example."""

    def __init__(self) -> None:
        self.taken: dict[str | None, int] = {}

    def take(self, customer: str, cents: int, *, key: str) -> bool:
        self.taken[key] = cents
        return cents < 100_000

    def give_back(self, *, key: str | None) -> None:
        del self.taken[key]


def test_the_example_of_the_readme_works() -> None:
    """The README's handler returns its event, says no, and is undone."""
    (text,) = snippets(page("README.md"))
    bank = ToyBank()
    names: dict[str, Any] = {"bank": bank}
    exec("from choreo import *\nfrom participants.contracts import *\n" + text, names)
    order = names["OrderPlaced"]("o", "ada", "mug", 1, 2400, "4242", "DE")
    about = partial(
        names["Context"], saga_id="s", saga_type="order", participant="payments", step="charge", event_id="e"
    )
    step = about(key="k")
    assert names["charge"](order, step) == names["PaymentCaptured"]("o", 2400)
    names["refund"](order, None, about(key="u", undoes="k"))
    assert not bank.taken
    dear = names["OrderPlaced"]("o", "ada", "mug", 1, 10**9, "4242", "DE")
    with pytest.raises(names["Abort"], match="not enough money"):
        names["charge"](dear, step)


def test_what_the_readme_installs_is_there() -> None:
    """Every extra that the README names is one of the project."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (text,) = [block.text for block in page("README.md").blocks if block.language == "sh"]
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        assert words[:2] == ["pip", "install"]
        extra = words[2].strip("'").removeprefix(".").strip("[]")
        assert not extra or extra in extras


def test_units_for_systemd_are_well_formed() -> None:
    """The unit can be read, and runs a command that is typed elsewhere on the page."""
    production = page("docs/how-to/run-in-production.md")
    (text,) = [block.text for block in production.blocks if block.language == "ini"]
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(text)
    assert " run participant payments --workers " in unit["Service"]["ExecStart"]
    assert int(unit["Service"]["TimeoutStopSec"]) > 30
