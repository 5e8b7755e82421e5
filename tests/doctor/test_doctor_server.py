"""The checks of the server: judged by what a server says, and on servers that are set up wrongly."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from doctor_kit import found, topology_of, verdict

from choreo.broker.broker import Broker
from choreo.broker.checkup import Skew
from choreo.broker.rights import Rights
from choreo.doctor.server import SERVER_CHECKS, Server
from choreo.doctor.verdict import Verdict
from choreo.wire.topology import Topology

GOOD = {
    "redis_version": "7.2.4", "loading": "0", "role": "master", "cluster_enabled": "0", "aof_enabled": "1",
    "aof_last_write_status": "ok", "maxmemory_policy": "noeviction", "maxmemory": "1000000",
    "used_memory": "100000", "connected_slaves": "0",
}  # fmt: skip
SETTINGS = {"appendfsync": "everysec", "aof-load-truncated": "yes", "save": "3600 1"}
ALL = Rights("ada", (), ())


def server(info: dict[str, str], settings: dict[str, str], **more: Any) -> Server:
    given = {"skew": Skew(1, 0), "rights": ALL} | more
    return Server(GOOD | info, SETTINGS | settings, **given)


def test_a_server_as_it_should_be() -> None:
    """Nothing is said against a server with the settings that the docs recommend."""
    for name, check in SERVER_CHECKS.items():
        assert [said.verdict for said in check(server({}, {}))] == [Verdict.OK], name


@pytest.mark.parametrize(
    ("check", "info", "settings", "wanted", "words"),
    [
        ("version", {"redis_version": "6.0.20"}, {}, Verdict.PROBLEM, "Redis 6.0.20 lacks commands"),
        ("version", {"redis_version": "6.2.0"}, {}, Verdict.OK, "Redis 6.2.0"),
        ("version", {"valkey_version": "9.1.0"}, {}, Verdict.OK, "Valkey 9.1.0"),
        ("loading", {"loading": "1", "loading_eta_seconds": "7"}, {}, Verdict.PROBLEM, "for about 7 s"),
        ("role", {"role": "slave"}, {}, Verdict.PROBLEM, "a replica"),
        ("cluster", {"cluster_enabled": "1"}, {}, Verdict.PROBLEM, "MOVED"),
        ("append-only-file", {"aof_enabled": "0"}, {}, Verdict.PROBLEM, "sagas are lost"),
        ("append-only-file", {"aof_last_write_status": "err"}, {}, Verdict.PROBLEM, "last write"),
        ("append-only-file", {}, {"aof-load-truncated": "no"}, Verdict.WARNING, "does not start"),
        ("fsync", {}, {"appendfsync": "no"}, Verdict.WARNING, "30 seconds"),
        ("fsync", {}, {"appendfsync": "always"}, Verdict.OK, "always"),
        ("fsync", {"aof_enabled": "0"}, {"appendfsync": "no"}, Verdict.UNKNOWN, "no append-only file"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, {}, Verdict.PROBLEM, "deletes streams"),
        ("eviction", {"maxmemory_policy": "volatile-ttl"}, {}, Verdict.PROBLEM, "deletes streams"),
        ("memory", {"used_memory": "990000"}, {}, Verdict.PROBLEM, "99%"),
        ("memory", {"used_memory": "850000"}, {}, Verdict.WARNING, "85%"),
        ("memory", {"maxmemory": "0"}, {}, Verdict.OK, "no limit"),
        ("replicas", {"connected_slaves": "2", "aof_enabled": "0"}, {"save": ""}, Verdict.PROBLEM, "2 connected"),
        ("replicas", {"connected_slaves": "2"}, {}, Verdict.OK, "earlier point"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_setting(
    check: str, info: dict[str, str], settings: dict[str, str], wanted: Verdict, words: str
) -> None:
    """Each wrong setting is named with what it means and a remedy; right ones need none."""
    (said,) = SERVER_CHECKS[check](server(info, settings))
    assert said.verdict is wanted
    assert words in said.what
    assert bool(said.remedy) is (wanted in (Verdict.PROBLEM, Verdict.WARNING))


@pytest.mark.parametrize(
    ("ahead", "wanted", "words"),
    [
        (999, Verdict.OK, ""),
        (1500, Verdict.WARNING, "1 s ahead of"),
        (-3 * 86_400_000, Verdict.PROBLEM, "3 d behind"),
    ],
)
def test_clocks_that_differ(ahead: int, wanted: Verdict, words: str) -> None:
    """A clock that is a second off is worth a warning, one that is far off is a problem."""
    (said,) = SERVER_CHECKS["clock"](server({}, {}, skew=Skew(1, ahead)))
    assert said.verdict is wanted
    assert words in said.what


def test_a_server_that_tells_nothing() -> None:
    """What a server does not tell is neither good nor bad, and no check fails over it."""
    for check in SERVER_CHECKS.values():
        assert [said.verdict for said in check(Server())] == [Verdict.UNKNOWN]


@pytest.mark.anyio
async def test_every_store_can_be_examined(broker: Broker, topology: Topology) -> None:
    """A server without INFO and CONFIG (fakeredis) is examined as far as it goes."""
    said = await found(broker, topology)
    assert list(said) == [*SERVER_CHECKS, "layout"]
    assert said["rights"][0].verdict is said["clock"][0].verdict is Verdict.OK


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("check", "settings"),
    [
        ("append-only-file", {"appendonly": "no"}),
        ("eviction", {"maxmemory-policy": "allkeys-lru"}),
        ("fsync", {"appendfsync": "no"}),
        ("memory", {"maxmemory": "100kb"}),
    ],
)  # fmt: skip
async def test_the_remedies_help(server_process: Any, check: str, settings: dict[str, str]) -> None:
    """On a server that is set up wrongly the check says so; after what it tells to type, it is content."""
    topology = topology_of("shop")
    async with Broker.open(server_process(settings).url, topology.keys) as broker:
        said = await verdict(broker, topology, check)
        assert said.verdict in (Verdict.PROBLEM, Verdict.WARNING)
        for line in said.remedy:
            program, *words = shlex.split(line)
            assert program == "redis-cli"
            if words[1] != "REWRITE":  # these servers have no file to keep it in
                await broker.connection.call(*words)
        assert (await verdict(broker, topology, check)).verdict is Verdict.OK


@pytest.mark.anyio
async def test_a_replica_is_recognized(server_process: Any) -> None:
    """A server that follows another one is a problem; its primary is named."""
    topology = topology_of("shop")
    async with Broker.open(server_process().url, topology.keys) as broker:
        await broker.connection.call("REPLICAOF", "127.0.0.1", "1")
        said = await verdict(broker, topology, "role")
        assert said.verdict is Verdict.PROBLEM
        assert "127.0.0.1:1" in said.remedy[0]


@pytest.mark.anyio
async def test_settings_may_be_secret(real_broker: Broker, server_url: str, topology: Topology) -> None:
    """A user who may not send CONFIG, as on managed servers, is told what could not be asked."""
    user = f"{topology.namespace}-user"
    await real_broker.connection.call("ACL", "SETUSER", user, "on", "nopass", "~*", "+@all", "-config", "-acl")
    try:
        url = server_url.replace("unix://", f"unix://{user}:x@")
        async with Broker.open(url, topology.keys) as broker:
            said = await found(broker, topology)
            assert said["fsync"][0].verdict is Verdict.UNKNOWN
            assert said["rights"][0].verdict is Verdict.OK
    finally:
        await real_broker.connection.call("ACL", "DELUSER", user)
