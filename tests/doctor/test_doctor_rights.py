"""The rights that choreo needs: the list is whole, and each of its commands is found when it is missing."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from doctor_kit import payments, verdict

from choreo.broker import broker as broker_module
from choreo.broker.broker import Broker
from choreo.broker.rights import FORMS, INDIVISIBLE, PROJECTING, examine
from choreo.doctor.verdict import Verdict
from choreo.errors import BrokerRefused
from choreo.runtime.worker import Worker
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology

FOLDER = Path(broker_module.__file__).parent
#: Modules that ask what the doctor wants to know; what they may not ask, they do without.
CURIOUS = {"checkup.py", "readers.py", "rights.py"}
#: Modules that start and stop a server of their own.
ENGINE = {"engine.py", "engine_folder.py"}
SUBCOMMANDS = {"XGROUP", "XINFO", "SCRIPT"}
#: Methods that are given a command.
SENDING = {"call", "read", "execute_command"}
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "run-in-production.md"
#: How scripts call a command, or have one called.
CALL = r"(?:redis\.p?call|write)\('(\w+)'(?:,\s*'(\w+)')?"
#: Words in capitals that begin a tuple and are no command.
WORDS = {"BLOCK"}


def of_scripts(pattern: str = "*") -> Iterator[str]:
    for script in (FOLDER / "scripts").glob(f"{pattern}.lua"):
        for first, second in re.findall(CALL, script.read_text("utf-8")):
            yield f"{first} {second}" if first in SUBCOMMANDS else first


def of_modules() -> Iterator[str]:
    """Commands are spelled in capitals, at the beginning of a call's arguments or of a tuple or list."""
    for module in FOLDER.glob("*.py"):
        if module.name not in CURIOUS | ENGINE:
            for node in ast.walk(ast.parse(module.read_text("utf-8"))):
                words: list[ast.expr] = []
                if isinstance(node, ast.Call) and _name(node.func) in SENDING:
                    words = node.args
                elif isinstance(node, ast.Tuple | ast.List):
                    words = node.elts
                texts = [each.value if isinstance(each, ast.Constant) else None for each in words]
                first, second = (*texts, None, None)[:2]
                if isinstance(first, str) and re.fullmatch("[A-Z]{3,}", first) and first not in WORDS:
                    yield f"{first} {second}" if first in SUBCOMMANDS else first


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", "") or getattr(function, "id", "")


def test_every_command_that_is_used_is_in_the_list() -> None:
    """What scripts and clients send stands in the list of rights: add there what is missing."""
    assert {*of_scripts(), *of_modules()} <= set(FORMS)


@asynccontextmanager
async def user(admin: Broker, url: str, topology: Topology, *rules: str) -> AsyncIterator[Broker]:
    """A broker of a user with these rights."""
    name = f"{topology.namespace}-user"
    await admin.connection.call("ACL", "SETUSER", name, "reset", "on", "nopass", *rules)
    try:
        async with Broker.open(url.replace("unix://", f"unix://{name}:x@"), topology.keys) as broker:
            yield broker
    finally:
        await admin.connection.call("ACL", "DELUSER", name)


@pytest.mark.anyio
@pytest.mark.parametrize("judged", [True, False], ids=["dry-run", "tried"])
async def test_each_command_is_missed(
    real_broker: Broker, server_url: str, topology: Topology, judged: bool
) -> None:
    """Whichever command is forbidden, it is named; be it that the server judges, or that it is tried."""
    everything = ["~*", "&*", "+@all", *([] if judged else ["-acl"])]
    async with user(real_broker, server_url, topology, *everything) as broker:
        name = f"{topology.namespace}-user"
        for command in FORMS:
            right = command.lower().replace(" ", "|")
            await real_broker.connection.call("ACL", "SETUSER", name, *everything, f"-{right}")
            rights = await examine(broker.connection, topology.keys)
            assert rights.missing == (command,)
        await real_broker.connection.call("ACL", "SETUSER", name, *everything)
        rights = await examine(broker.connection, topology.keys)
        assert rights.missing == rights.keys == ()
    assert not await real_broker.connection.call("EXISTS", topology.keys.probe(0), topology.keys.probe(1))


@pytest.mark.anyio
async def test_nothing_is_left_behind(broker: Broker, topology: Topology) -> None:
    """On every store: nothing is missing, and what was tried leaves no key."""
    rights = await examine(broker.connection, topology.keys)
    assert rights.missing == rights.keys == ()
    assert not await broker.connection.call("EXISTS", topology.keys.probe(0))


@pytest.mark.anyio
@pytest.mark.parametrize("judged", [True, False], ids=["dry-run", "tried"])
async def test_keys_out_of_reach_are_named(
    real_broker: Broker, server_url: str, topology: Topology, judged: bool
) -> None:
    """A user who may do everything, but with other keys only, lacks keys and not commands."""
    rules = ["~other:*", "+@all", *([] if judged else ["-acl"])]
    async with user(real_broker, server_url, topology, *rules) as broker:
        rights = await examine(broker.connection, topology.keys)
    assert rights.missing == ()
    assert set(rights.keys) == {topology.keys.meta, topology.keys.probe(0), topology.keys.probe(1)}


@pytest.mark.anyio
async def test_the_remedy_grants_what_is_missing(
    real_broker: Broker, server_url: str, topology: Topology
) -> None:
    """The check names the user and the commands; what it tells to type is enough."""
    async with user(real_broker, server_url, topology, "~*", "+@all", "-xadd", "-xgroup|setid") as broker:
        said = await verdict(broker, topology, "rights")
        assert said.verdict is Verdict.PROBLEM
        assert "may not send XADD, XGROUP SETID" in said.what
        await real_broker.connection.call(*shlex.split(said.remedy[0])[1:])
        assert (await verdict(broker, topology, "rights")).verdict is Verdict.OK


def test_every_command_of_a_commit_is_needed_to_start() -> None:
    """What the scripts use by which workers commit, take over and move timers stands in their list."""
    scripts = ("gate", "saga", "delivery", "events", "joins", "due", "claim", "renew")
    assert {command for script in scripts for command in of_scripts(script)} == set(INDIVISIBLE)
    assert set(of_scripts("project")) - INDIVISIBLE == PROJECTING


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["zadd", "xpending"])
async def test_nobody_commits_who_lacks_a_right(
    real_broker: Broker, server_url: str, topology: Topology, command: str
) -> None:
    """A commit that is broken off half-way is not taken back: workers and trackers do not even start."""
    async with user(real_broker, server_url, topology, "~*", "+@all", f"-{command}") as broker:
        for service in (Worker(payments, topology, broker), Tracker(topology, broker)):
            with pytest.raises(BrokerRefused, match=f"may not send {command.upper()}.*choreo doctor"):
                await service.run()


@pytest.mark.anyio
async def test_what_only_others_need_keeps_nobody_from_starting(
    real_broker: Broker, server_url: str, topology: Topology
) -> None:
    """Workers need not be able to do what trackers do, nor to ask for the server's settings."""
    async with user(real_broker, server_url, topology, "~*", "+@all", "-rpush", "-info", "-xtrim") as broker:
        worker = Worker(payments, topology, broker)
        async with anyio.create_task_group() as tasks:
            await tasks.start(worker.run)
            worker.stop()


@pytest.mark.anyio
async def test_the_user_of_the_guide_lacks_nothing(
    real_broker: Broker, server_url: str, topology: Topology
) -> None:
    """What the guide tells to type is all that choreo needs."""
    (line,) = re.findall(r"redis-cli ACL SETUSER shop on '>secret' (.*)", GUIDE.read_text("utf-8"))
    rules = shlex.split(line.replace("shop:", f"{topology.namespace}:"))
    async with user(real_broker, server_url, topology, *rules) as broker:
        rights = await examine(broker.connection, topology.keys)
    assert rights.missing == rights.keys == ()
