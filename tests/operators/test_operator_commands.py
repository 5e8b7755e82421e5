"""The commands of operators as they are typed, against a real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
from click.testing import CliRunner, Result

from choreo.cli.main import cli
from choreo.wire.keys import Keys

Choreo: TypeAlias = Callable[..., Result]

PARTICIPANT = """
from choreo import Event, Participant

class Asked(Event):
    question: str

oracle = Participant("oracle")

@oracle.on(Asked)
async def answer(asked: Asked) -> None: ...
"""
STREAMS = """
namespace: {namespace}
partitions: 1
streams:
  questions: {{events: [Asked, Answered]}}
participants:
  oracle: {module}:oracle
sagas:
  question: {{starts_with: Asked, completes_with: [Answered]}}
"""


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace, 1)


@pytest.fixture
def choreo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_url: str, namespace: str
) -> Choreo:
    """Runs a command in a folder with a choreography: ``choreo("dlq", "list")``."""
    module = f"oracle_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(PARTICIPANT)
    (tmp_path / "streams.yaml").write_text(STREAMS.format(namespace=namespace, module=module))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("CHOREO_REDIS_URL", server_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, arguments)
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.fixture
def store(server_url: str) -> Any:
    with redis.Redis.from_url(server_url, protocol=2, decode_responses=True) as client:
        yield client


def refuse(store: Any, keys: Keys, letter: str, saga_id: str, **fields: str) -> None:
    """Leave a letter of a refused entry, as the tracker does."""
    store.hset(keys.letters(0), letter, "open")
    stream = keys.stream(0, "questions")
    store.xadd(keys.dead(0), {
        "letter": letter, "reason": "fields-missing", "time": "1700000000000", "stream": stream, "entry": "1-1",
        "subject": saga_id, "fact": f"refused:{stream}:1-1", "error": "not there: \x1b[31mid",
        **{f"field:{name}": value for name, value in fields.items()},
    })  # fmt: skip


def test_letters_are_listed_and_shown(choreo: Choreo, store: Any, keys: Keys) -> None:
    """One line each, or one in full; nothing from outside reaches the terminal as it is."""
    assert "No such dead letter" in choreo("dlq", "list").stderr
    refuse(store, keys, "L1", "s1", type="Asked", data='{"question": "why"}')
    refuse(store, keys, "L2", "s2", type="Asked", data="{}")
    listed = choreo("dlq", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["LETTER", "L2", "L1"]
    assert r"not there: \x1b[31mid" in listed.stdout
    assert [each["id"] for each in json.loads(choreo("dlq", "list", "--saga", "s1", "--json").stdout)] == ["L1"]
    assert choreo("dlq", "list", "--reason", "poison", "--json").stdout == "[]\n"
    shown = choreo("dlq", "show", "L1")
    assert shown.exit_code == 0
    assert {"fields-missing", "s1", '{"question": "why"}'} <= {*shown.stdout.replace("\n", "  ").split("  ")}
    missing = choreo("dlq", "show", "L3")
    assert (missing.exit_code, "no dead letter 'L3'" in missing.stderr) == (1, True)


def test_a_letter_is_replayed_with_what_was_missing(choreo: Choreo, store: Any, keys: Keys) -> None:
    """Refused without it; rehearsed; replayed; and a second time nothing happens, with exit code 0."""
    refuse(store, keys, "L1", "s1", type="Asked", subject="s1", data='{"question": "why"}')
    stream = keys.stream(0, "questions")
    refused = choreo("dlq", "replay", "L1")
    assert (refused.exit_code, "it would be refused again" in refused.stdout) == (1, True)
    rehearsed = choreo("dlq", "replay", "L1", "--set", "id=e1", "--dry-run")
    assert (rehearsed.exit_code, "would be replayed" in rehearsed.stdout) == (0, True)
    assert store.xlen(stream) == 0
    replayed = choreo("dlq", "replay", "L1", "--set", "id=e1", "--data", '{"question": "how"}')
    assert (replayed.exit_code, replayed.stdout.split()[1:3]) == (0, ["L1", "replayed"])
    again = choreo("dlq", "replay", "L1", "--set", "id=e1", "--json")
    (settlement,) = json.loads(again.stdout)
    assert (again.exit_code, settlement["outcome"], settlement["state"]) == (0, "closed", "replayed")
    ((_, entry),) = store.xrange(stream)
    assert entry == {"id": "e1", "type": "Asked", "subject": "s1", "data": '{"question":"how"}'}


def test_many_letters_need_a_yes(choreo: Choreo, store: Any, keys: Keys) -> None:
    """Letters that are not named, and all that are to be dropped, are dealt with when somebody says so."""
    for number in range(3):
        refuse(store, keys, f"L{number}", "s1", id="e1", type="Asked", subject="s1", data="{}")
    asked = choreo("dlq", "drop", "L0")
    assert (asked.exit_code, "give --yes" in asked.stderr) == (2, True)
    assert choreo("dlq", "drop", "L0", "--yes").exit_code == 0
    asked = choreo("dlq", "replay", "--saga", "s1")
    assert (asked.exit_code, "2 letters; give --yes" in asked.stderr) == (2, True)
    rehearsed = choreo("dlq", "replay", "--all", "--dry-run")
    assert [line.split()[1] for line in rehearsed.stdout.splitlines()] == ["L1", "L2"]
    assert store.xlen(keys.stream(0, "questions")) == 0
    assert choreo("dlq", "replay", "--all", "--yes").exit_code == 0
    assert store.xlen(keys.stream(0, "questions")) == 2
    nothing = choreo("dlq", "replay", "--all", "--yes")
    assert (nothing.exit_code, "No open dead letter fits" in nothing.stderr) == (1, True)
    dropped = choreo("dlq", "replay", "L0")
    assert (dropped.exit_code, "was dropped by" in dropped.stdout) == (1, True)


def test_a_participant_is_paused_and_resumed(choreo: Choreo) -> None:
    """It is said by whom and since when; what is not known or not paused is told."""
    unknown = choreo("pause", "nobody")
    assert (unknown.exit_code, "there are: oracle" in unknown.stderr) == (2, True)
    assert "was not paused" in choreo("resume", "oracle").stderr
    paused = choreo("pause", "oracle", "--note", "the line is down")
    assert paused.exit_code == 0
    assert paused.stdout.startswith("‖ oracle was paused by")
    assert paused.stdout.endswith("just now: the line is down\n")
    assert "oracle was paused by" in choreo("dlq", "list").stdout
    ended = json.loads(choreo("resume", "oracle", "--json").stdout)
    assert ended["ended"]["note"] == "the line is down"


def test_sagas_that_cannot_be_retried_or_resolved(choreo: Choreo) -> None:
    """One that nobody knows, and one that has nothing to retry or has not failed: exit code 1."""
    for command in (["retry", "s1"], ["resolve", "s1", "--note", "so"]):
        result = choreo(*command)
        assert (result.exit_code, "no saga 's1'" in result.stderr) == (1, True)
    assert choreo("start", "Asked", "--data", '{"question": "why"}', "--saga-id", "s1").exit_code == 0
    retried = choreo("retry", "s1")
    assert (retried.exit_code, "nothing to retry" in retried.stderr) == (1, True)
    resolved = choreo("resolve", "s1", "--note", "so")
    assert (resolved.exit_code, "compensate it first" in resolved.stderr) == (1, True)
