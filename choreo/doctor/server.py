"""The checks of the server itself. Each is a function of what the server said, and does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from choreo.broker.checkup import Skew
from choreo.broker.rights import Rights
from choreo.doctor.verdict import Said, ok, problem, redis_cli, set_config, span, unknown, warning
from choreo.wire.limits import MIN_SERVER

#: Part of `maxmemory` that may be used before it is worth a warning, and a problem.
_MUCH, _TOO_MUCH = 0.8, 0.95
#: Milliseconds between this machine's clock and the server's: worth a warning, and a problem.
_SKEW, _GREAT_SKEW = 1_000, 5_000

_NO_INFO = "the server does not answer INFO"


@dataclass(frozen=True, slots=True)
class Server:
    """What the server said of itself. ``None`` is what it did not tell."""

    info: Mapping[str, str] | None = None
    settings: Mapping[str, str | None] | None = None
    """Answers of CONFIG GET."""
    skew: Skew | None = None
    rights: Rights | None = None

    def fact(self, name: str) -> str | None:
        return None if self.info is None else self.info.get(name)

    def setting(self, name: str) -> str | None:
        return None if self.settings is None else self.settings.get(name)

    @property
    def loading(self) -> bool:
        return self.fact("loading") == "1"


#: Settings that the checks need.
SETTINGS = ("appendfsync", "aof-load-truncated", "save")


def version(server: Server) -> Iterator[Said]:
    """A server whose commands suffice."""
    found = server.fact("redis_version")
    if found is None:
        yield unknown(_NO_INFO)
        return
    name = f"Valkey {server.fact('valkey_version')}" if server.fact("valkey_version") else f"Redis {found}"
    numbers = tuple(int(part) for part in found.split(".") if part.isdigit())
    if numbers < MIN_SERVER:
        wanted = ".".join(map(str, MIN_SERVER))
        yield problem(f"{name} lacks commands that choreo uses",
                      f"# install Redis {wanted} or newer, or Valkey")  # fmt: skip
    else:
        yield ok(name)


def loading(server: Server) -> Iterator[Said]:
    """A server that has read its data."""
    if server.info is None:
        yield unknown(_NO_INFO)
    elif server.loading:
        left = server.fact("loading_eta_seconds") or "?"
        yield problem(f"the server still loads its data, for about {left} s; nothing else can be looked at",
                      "# wait; workers and trackers wait, too")  # fmt: skip
    else:
        yield ok("it has loaded its data")


def role(server: Server) -> Iterator[Said]:
    """A primary; a replica refuses every commit."""
    found = server.fact("role")
    if found is None:
        yield unknown(_NO_INFO)
    elif found == "master":
        yield ok("a primary")
    else:
        primary = f"{server.fact('master_host') or '?'}:{server.fact('master_port') or '?'}"
        yield problem("this is a replica: it refuses every write, and no saga moves",
                      f"# use its primary, {primary}, or an address that follows failovers")  # fmt: skip


def cluster(server: Server) -> Iterator[Said]:
    """No cluster mode: this client speaks to one server."""
    found = server.fact("cluster_enabled")
    if found is None:
        yield unknown(_NO_INFO)
    elif found == "1":
        yield problem("cluster mode is on; choreo speaks to one server and would be sent elsewhere (MOVED)",
                      "# use a server without cluster mode (cluster-enabled no)")  # fmt: skip
    else:
        yield ok("off")


def append_only_file(server: Server) -> Iterator[Said]:
    """AOF: without it a crash of the server loses sagas."""
    enabled = server.fact("aof_enabled")
    if enabled is None:
        yield unknown(_NO_INFO)
        return
    if enabled == "0":
        yield problem("off: when the server crashes, sagas are lost and nobody can tell which",
                      *set_config("appendonly", "yes"))  # fmt: skip
    elif server.fact("aof_last_write_status") == "err":
        yield problem("the last write to it failed", "# look at the server's log and its disk")
    elif server.setting("aof-load-truncated") == "no":
        yield warning("aof-load-truncated is no: after a crash within a write the server does not start",
                      *set_config("aof-load-truncated", "yes"))  # fmt: skip
    else:
        yield ok("on")


def fsync(server: Server) -> Iterator[Said]:
    """How much a loss of power may cost."""
    found = server.setting("appendfsync")
    if server.fact("aof_enabled") == "0":
        yield unknown("there is no append-only file")
    elif found is None:
        yield unknown("the server does not answer CONFIG GET appendfsync")
    elif found == "no":
        yield warning("appendfsync is no: losing power may cost the last 30 seconds",
                      *set_config("appendfsync", "everysec"))  # fmt: skip
    else:
        yield ok("always" if found == "always" else f"{found}: losing power may cost about the last second")


def eviction(server: Server) -> Iterator[Said]:
    """No eviction: it would delete streams and records."""
    policy = server.fact("maxmemory_policy")
    if policy is None:
        yield unknown(_NO_INFO)
    elif policy != "noeviction":
        yield problem(f"{policy}: when memory is short, the server deletes streams and sagas in silence",
                      *set_config("maxmemory-policy", "noeviction"))  # fmt: skip
    else:
        yield ok("noeviction")


def memory(server: Server) -> Iterator[Said]:
    """Room: at its limit the server refuses commits."""
    used, limit = server.fact("used_memory"), server.fact("maxmemory")
    if used is None or limit is None:
        yield unknown(_NO_INFO)
    elif limit == "0":
        yield ok(f"{_mega(used)} used, no limit")
    else:
        part = int(used) / int(limit)
        what = f"{_mega(used)} of {_mega(limit)} used ({part:.0%})"
        remedy = redis_cli("CONFIG", "SET", "maxmemory", str(2 * max(int(limit), int(used))))
        if part > _TOO_MUCH:
            yield problem(f"{what}: commits are refused when it is full, and sagas stand still", remedy)
        elif part > _MUCH:
            yield warning(f"{what}: commits are refused when it is full", remedy)
        else:
            yield ok(what)


def replicas(server: Server) -> Iterator[Said]:
    """Replicas copy a primary that came back empty."""
    count = server.fact("connected_slaves")
    if count is None:
        yield unknown(_NO_INFO)
    elif count != "0" and server.fact("aof_enabled") == "0" and not server.setting("save"):
        yield problem(f"{count} connected, and the primary keeps nothing on disk: if it restarts, all of them"
                      " are empty", *set_config("appendonly", "yes"))  # fmt: skip
    else:
        yield ok("none" if count == "0" else f"{count} connected; a failover may go back to an earlier point")


def rights(server: Server) -> Iterator[Said]:
    """Every command that choreo uses is allowed, each by itself, and the namespace's keys are in reach."""
    found = server.rights
    if found is None:
        yield unknown("the server loads its data")
        return
    user = found.user or "NAME"
    who = f"user {found.user}" if found.user else "this user"
    if found.missing:
        grants = [f"+{name.lower().replace(' ', '|')}" for name in found.missing]
        yield problem(f"{who} may not send {', '.join(found.missing)}",
                      redis_cli("ACL", "SETUSER", user, *grants))  # fmt: skip
    if found.keys:
        patterns = [f"~{key}" for key in found.keys]
        yield problem(f"{who} may not touch {', '.join(found.keys)}, and other keys like these",
                      redis_cli("ACL", "SETUSER", user, *patterns))  # fmt: skip
    if not found.missing and not found.keys:
        yield ok(f"{who} may do all that choreo does")


def clock(server: Server) -> Iterator[Said]:
    """This machine and the server agree on the time."""
    if server.skew is None:
        yield unknown("the server does not answer TIME")
        return
    ahead = server.skew.ahead
    if abs(ahead) <= _SKEW:
        yield ok("as the server's")
        return
    what = f"this machine's clock is {span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the server's"
    say = problem if abs(ahead) > _GREAT_SKEW else warning
    yield say(f"{what}: ages are shown wrongly, and processes that just started plan with it",
              "timedatectl set-ntp true")  # fmt: skip


def _mega(number: str) -> str:
    return f"{int(number) / 1_048_576:,.1f} MB"


#: Every check of the server, by its name, in the order in which they are told.
SERVER_CHECKS: dict[str, Callable[[Server], Iterator[Said]]] = {
    "version": version,
    "loading": loading,
    "role": role,
    "cluster": cluster,
    "append-only-file": append_only_file,
    "fsync": fsync,
    "eviction": eviction,
    "memory": memory,
    "replicas": replicas,
    "rights": rights,
    "clock": clock,
}
