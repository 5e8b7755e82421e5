"""What the server must let choreo do: every command that its scripts and clients use, in one list.

Scripts run with the rights of whoever calls them, and ``ACL DRYRUN`` of a script says nothing about the
commands within it. So each command is asked for by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from choreo.broker.connection import Argument, Connection, NotPermitted
from choreo.errors import BrokerRefused
from choreo.wire.keys import Keys

_KEY = "{probe}"
_SAMPLE = "f57bd3b2fe5a9cd4b0b3e0ea3b6c1c5f5d3b2a10"

#: Each command with arguments that change nothing: the key is not there, or an argument is wrong, and
#: servers look at rights before they look at either. Those that cannot but write do so to a key that is
#: deleted in the same breath.
FORMS: Mapping[str, tuple[Argument, ...]] = {
    "DEL": (_KEY,),
    "EVAL": ("return 1", 1, _KEY),
    "EVALSHA": (_SAMPLE, 1, _KEY),
    "EXISTS": (_KEY,),
    "GET": (_KEY,),
    "HDEL": (_KEY, "none"),
    "HEXISTS": (_KEY, "none"),
    "HGET": (_KEY, "none"),
    "HGETALL": (_KEY,),
    "HINCRBY": (_KEY, "none", "no number"),
    "HKEYS": (_KEY,),
    "HMGET": (_KEY, "none"),
    "HSCAN": (_KEY, 0),
    "HSET": (_KEY, "name", "value", "no value follows"),
    "HSETNX": (_KEY, "name", "value"),
    "INFO": ("server",),
    "LRANGE": (_KEY, 0, 0),
    "MSET": (_KEY, "value", _KEY),
    "RPUSH": (_KEY, "value"),
    "SCRIPT LOAD": ("return 1",),
    "TIME": (),
    "TYPE": (_KEY,),
    "UNLINK": (_KEY,),
    "XACK": (_KEY, "none", "0-1"),
    "XADD": (_KEY, "NOMKSTREAM", "*", "name", "value"),
    "XCLAIM": (_KEY, "none", "none", 0, "0-1"),
    "XDEL": (_KEY, "0-1"),
    "XGROUP CREATE": (_KEY, "none", "0"),
    "XGROUP DELCONSUMER": (_KEY, "none", "none"),
    "XGROUP SETID": (_KEY, "none", "0"),
    "XINFO CONSUMERS": (_KEY, "none"),
    "XINFO GROUPS": (_KEY,),
    "XINFO STREAM": (_KEY,),
    "XPENDING": (_KEY, "none"),
    "XRANGE": (_KEY, "-", "+", "COUNT", 1),
    "XREAD": ("COUNT", 1, "STREAMS", _KEY, "0"),
    "XREADGROUP": ("GROUP", "none", "none", "COUNT", 1, "STREAMS", _KEY, ">"),
    "XREVRANGE": (_KEY, "+", "-", "COUNT", 1),
    "XTRIM": (_KEY, "MINID", "0-1"),
    "ZADD": (_KEY, "XX", 1, "none"),
    "ZRANGE": (_KEY, 0, 0),
    "ZRANGEBYSCORE": (_KEY, 0, 0),
    "ZREM": (_KEY, "none"),
    "ZREMRANGEBYRANK": (_KEY, 0, 0),
    "ZREVRANGEBYSCORE": (_KEY, 0, 0),
    "ZSCORE": (_KEY, "none"),
}
#: Of these, what the scripts use that change sagas. Servers do not take back what a script has done before
#: a command of it is refused.
INDIVISIBLE = frozenset({
    "HDEL", "HEXISTS", "HGET", "HKEYS", "HMGET", "HSET", "HSETNX", "TYPE", "XACK", "XADD", "XCLAIM",
    "XDEL", "XPENDING", "XRANGE", "ZADD", "ZRANGE", "ZRANGEBYSCORE", "ZREM",
})  # fmt: skip
#: What the script uses, beside these, by which the tracker writes.
PROJECTING = frozenset({"EXISTS", "HINCRBY", "MSET", "RPUSH", "XGROUP SETID"})
#: Commands whose form writes: they are tried only when the key can be deleted again.
WRITING = ("HSETNX", "RPUSH")
_CLEANER = "UNLINK"


@dataclass(frozen=True, slots=True)
class Rights:
    """What the user of this connection may do in a namespace."""

    user: str
    """The user's name; empty if the server does not tell."""
    missing: tuple[str, ...]
    """Commands that are forbidden."""
    keys: tuple[str, ...]
    """Keys that are out of reach."""


async def examine(connection: Connection, keys: Keys) -> Rights:
    """Which of the commands in :data:`FORMS` are forbidden, and which keys cannot be reached.

    Asks ``ACL DRYRUN`` where the server has it and lets this user ask; else tries harmless forms.

    Raises:
        BrokerUnavailable: if the server cannot be reached or cannot serve now.
    """
    probe = keys.probe(0)
    user = await _user(connection)
    refused = await _dry_run(connection, user, probe) if user else None
    if refused is None:
        refused = await _try(connection, probe)
    missing = tuple(name for name, why in refused.items() if not _about_keys(why))
    keys_refused = [probe] if len(missing) < len(refused) else []
    return Rights(user, missing, (*keys_refused, *await _out_of_reach(connection, keys)))


async def require(connection: Connection, keys: Keys, also: Collection[str] = ()) -> None:
    """Make sure that no commit of this process is broken off half-way for want of a right.

    Raises:
        NotPermitted: if a command of :data:`INDIVISIBLE` or ``also`` is forbidden, or keys are out of reach.
        BrokerUnavailable: if the server cannot be reached or cannot serve now.
    """
    if not connection.blocking:
        return  # the fake server knows no rights
    found = await examine(connection, keys)
    missing = [name for name in found.missing if name in INDIVISIBLE or name in also]
    if missing or found.keys:
        what = f"send {', '.join(missing)}" if missing else f"touch {', '.join(found.keys)}"
        who = f"user {found.user}" if found.user else "this user"
        raise NotPermitted(
            f"{who} may not {what}, and commits would be broken off half-way; `choreo doctor` has the remedy"
        )


async def _user(connection: Connection) -> str:
    try:
        return str((await connection.call("ACL", "WHOAMI")).decode())
    except BrokerRefused:
        return ""


def _command(name: str, probe: str) -> list[Argument]:
    return [*name.split(), *(probe if each == _KEY else each for each in FORMS[name])]


def _about_keys(why: str) -> bool:
    """Whether it is the key that is out of reach, not the command."""
    return " key" in why


async def _dry_run(connection: Connection, user: str, probe: str) -> dict[str, str] | None:
    """Command -> why ``user`` may not send it, as the server judges; ``None`` if it does not judge."""
    commands = [("ACL", "DRYRUN", user, *_command(name, probe)) for name in FORMS]
    answers = await connection.call_many(commands)
    for answer in answers:
        if isinstance(answer, BrokerRefused):
            return None
        if isinstance(answer, Exception):
            raise answer
    return {
        name: answer.decode(errors="replace")
        for name, answer in zip(FORMS, answers, strict=True)
        if answer != b"OK"
    }


async def _try(connection: Connection, probe: str) -> dict[str, str]:
    refused = await _refused(connection, [name for name in FORMS if name not in WRITING], probe)
    if _CLEANER not in refused:
        written = [each for name in WRITING for each in (name, _CLEANER)]
        refused |= await _refused(connection, written, probe)
    return refused


async def _refused(connection: Connection, names: list[str], probe: str) -> dict[str, str]:
    answers = await connection.call_many([_command(name, probe) for name in names])
    return {
        name: str(answer)
        for name, answer in zip(names, answers, strict=True)
        if isinstance(answer, NotPermitted)
    }


async def _out_of_reach(connection: Connection, keys: Keys) -> list[str]:
    """Of the namespace's own key and the last partition's: what this user may not touch."""
    wanted = [keys.meta, keys.probe(keys.partitions - 1)]
    answers = await connection.call_many([("TYPE", key) for key in wanted])
    return [
        key
        for key, answer in zip(wanted, answers, strict=True)
        if isinstance(answer, NotPermitted) and _about_keys(str(answer))
    ]
