"""`choreo rehearse`: the table, what is said of violations, and the exit code."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from choreo.cli.main import cli

STREAMS = """
namespace: bank
defaults: {timeout: 10s}
streams:
  all: {events: [Asked, Taken, Given, Done]}
participants:
  taking: bankcode:taking
  giving: bankcode:giving
sagas:
  transfer: {starts_with: Asked, completes_with: [Done]}
"""
CODE = """
from choreo import Context, Event, Participant

class Asked(Event):
    pass

class Taken(Event):
    pass

class Given(Event):
    pass

class Done(Event):
    pass

class Bank:
    def __init__(self):
        self.cents, self.keys = 0, set()

bank = Bank()
taking, giving = Participant("taking"), Participant("giving")

@taking.on(Asked)
def take(asked: Asked, ctx: Context) -> Taken:
    if ctx.key not in bank.keys:
        bank.keys.add(ctx.key)
        bank.cents -= 100
    return Taken()

@take.undo
def put_back(asked: Asked, taken: Taken | None, ctx: Context) -> None:
    if ctx.undoes in bank.keys:
        bank.cents += 100  # and again, if it runs again

@giving.on(Taken)
def give(taken: Taken) -> Done:
    return Done()
"""
INVARIANT = """
import bankcode

async def money_is_conserved(harness):
    bankcode.bank.__init__()
    async with harness() as town:
        saga = await town.start(bankcode.Asked())
        await town.finish()
        assert bankcode.bank.cents == (-100 if saga.status == "completed" else 0), bankcode.bank.cents

async def nothing_works(harness):
    async with harness() as town:
        raise RuntimeError("as expected")

async def fine(harness):
    async with harness() as town:
        await town.start(bankcode.Asked())
        await town.finish()

number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "streams.yaml").write_text(STREAMS)
    (tmp_path / "bankcode.py").write_text(CODE)
    (tmp_path / "invariants.py").write_text(INVARIANT)
    monkeypatch.chdir(tmp_path)
    for name in ("bankcode", "invariants"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command has a process of its own, else, and silences its log; other tests look at theirs."""
    loggers = logging.getLogger(), logging.getLogger("choreo")
    levels, handlers = [each.level for each in loggers], loggers[0].handlers
    yield
    loggers[0].handlers = handlers
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


def rehearse(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rehearse", *arguments])


def test_a_sound_choreography(folder: Path) -> None:
    """Every fault has its line, with how the sagas ended; the exit code is 0."""
    done = rehearse("invariants:fine")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["✓", "nothing", "goes", "wrong", "completed"]
    assert any(line.split() == ["✓", "taking/take", "crashes", "after", "its", "effect", "completed"] for line in lines)
    assert any(line.split() == ["✓", "taking/take", "aborts", "compensated"] for line in lines)
    assert "held under" in lines[-1]


def test_a_violation(folder: Path) -> None:
    """It is told with the trace and the one line that repeats it; the exit code is 1."""
    done = rehearse("invariants:money_is_conserved", "--only", "put_back")
    assert done.exit_code == 1
    assert "✗ taking/take/put_back crashes after its effect" in done.stdout
    assert "● Asked" in done.stdout
    assert "↶ put_back" in done.stdout
    assert (
        "Harness(..., faults=[Unwind('taking/take'), Crash('taking/take/put_back')])" in done.stdout
    )
    assert "violated by" in done.stdout


def test_json(folder: Path) -> None:
    """The same as data."""
    done = rehearse("invariants:money_is_conserved", "--only", "put_back", "--json")
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    by_name: dict[str, Any] = {each["fault"]: each for each in data["trials"]}
    assert by_name["nothing goes wrong"]["verdict"] == "held"
    bad = by_name["taking/take/put_back crashes after its effect"]
    assert bad["verdict"] == "violated"
    assert bad["sagas"] == ["compensated"]
    assert bad["repeat"].startswith("faults=[")
    assert "● Asked" in bad["trace"]


def test_random_schedules(folder: Path) -> None:
    """`--seeds` explores as well."""
    done = rehearse("invariants:money_is_conserved", "--only", "nothing like this", "--seeds", "200")
    assert done.exit_code == 1
    assert "does not hold with seed" in done.stdout
    assert rehearse("invariants:fine", "--only", "x", "--seeds", "5").stdout.endswith("5 random schedules\n")


def test_an_invariant_that_never_holds(folder: Path) -> None:
    """Faults are not blamed for what is wrong without them."""
    done = rehearse("invariants:nothing_works")
    assert done.exit_code == 1
    assert "✗ nothing goes wrong" in done.stdout
    assert "RuntimeError: as expected" in done.stdout
    assert "take fails once" not in done.stdout


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nonsense", "write `package.module:function`"),
        ("invariants:missing", "has no `missing`"),
        ("invariants:number", "is of type int, not a function"),
        ("nowhere:fine", "there is no module `nowhere`"),
    ],
)
def test_wrong_names(folder: Path, spec: str, said: str) -> None:
    """What cannot be loaded is said in one line, with exit code 2."""
    done = rehearse(spec)
    assert done.exit_code == 2
    assert said in done.stderr
