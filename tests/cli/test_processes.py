"""The commands as processes, against a real server: the main flows, and how processes end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from choreo.broker.engine import EngineProcess

pytestmark = pytest.mark.processes

Finished: TypeAlias = subprocess.CompletedProcess[str]

#: Seconds after which something that should happen counts as not happening.
PATIENCE = 30.0
#: The folder that holds the package.
SOURCE = Path(__file__).parents[2]

ORACLE = """
import time
from pathlib import Path

from choreo import Abort, Context, Event, Participant

class Asked(Event):
    question: str

class Answered(Event):
    answer: str

oracle = Participant("oracle")

@oracle.on(Asked)
async def answer(asked: Asked) -> Answered | None:
    if asked.question == "why?":
        raise Abort("nobody \\x1b[31mknows[/]")
    if asked.question == "silence":
        return None
    return Answered("42")

@answer.undo
def take_back(asked: Asked, answered: Answered | None) -> None:
    pass

thinker = Participant("thinker")

@thinker.on(Asked)
def think(asked: Asked) -> None:
    if asked.question == "hard":
        Path("thinking").touch()
        time.sleep(60)
"""
STREAMS = """
namespace: test
partitions: 2
defaults: {retry: {attempts: 1}}
streams:
  questions: {events: [Asked, Answered]}
participants:
  oracle: oracle:oracle
  thinker: oracle:thinker
sagas:
  question: {starts_with: Asked, completes_with: [Answered]}
"""


class Terminal:
    """A terminal in a folder with a choreography: runs `choreo` as a user would."""

    def __init__(self, folder: Path, server: str | None) -> None:
        self.folder = folder
        self._variables = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1",
                           "COLUMNS": "140"}
        self._variables.pop("CHOREO_REDIS_URL", None)
        if server:
            self._variables["CHOREO_REDIS_URL"] = server

    def run(self, *arguments: str, stdin: str = "") -> Finished:
        """Run a command to its end."""
        return subprocess.run(
            _command(*arguments), cwd=self.folder, env=self._variables, input=stdin, text=True,
            capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    @contextmanager
    def running(self, *arguments: str, says: str) -> Iterator[Background]:
        """Run a command for as long as the block lasts, which begins when it has said ``says``."""
        log = self.folder / f"{'-'.join(arguments[:3])}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                _command(*arguments), cwd=self.folder, env=self._variables, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        background = Background(process, log)
        try:
            background.wait_until_it_says(says)
            yield background
        finally:
            process.kill()
            process.wait()


class Background:
    """A command that runs on."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_until_it_says(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def children(self) -> list[int]:
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in pids.split()]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "choreo.cli", *arguments]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds, and fail if it never does."""
    patient_until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patient_until, "this never came true"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "oracle.py").write_text(ORACLE)
    (tmp_path / "streams.yaml").write_text(STREAMS)
    return tmp_path


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("engine"), extra={"appendonly": "no"}) as engine:
        yield engine


@pytest.fixture
def terminal(folder: Path, engine: EngineProcess) -> Terminal:
    """A terminal with a server of its own namespace."""
    file = folder / "streams.yaml"
    file.write_text(
        file.read_text().replace("namespace: test", f"namespace: {folder.name.replace('_', '-')}")
    )
    return Terminal(folder, engine.url)


@pytest.fixture
def own_terminal(folder: Path) -> Terminal:
    """A terminal where nothing says which server to use."""
    return Terminal(folder, None)


def test_a_day_with_dev(own_terminal: Terminal) -> None:
    """`choreo dev` runs everything; from a second terminal, without flags, sagas are begun and looked at."""
    choreo = own_terminal.run
    with own_terminal.running("dev", says="choreo is running") as dev:
        assert "participants  oracle, thinker" in dev.said
        assert """choreo start Asked --data '{"question":"…"}' --wait""" in dev.said

        started = choreo("start", "Asked", "--saga-id", "good", "--wait", "-", stdin='{"question": "what?"}')
        assert started.stdout.startswith("good\n✓ completed in ")
        assert started.returncode == 0
        aborted = choreo(
            "start", "Asked", "--saga-id", "bad", "--wait", "--json", "--data", '{"question": "why?"}'
        )
        assert json.loads(aborted.stdout)["status"] == "compensated"
        assert aborted.returncode == 1

        newest, other = choreo("sagas").stdout.splitlines()[1:]
        assert newest.startswith("↶ compensated  bad   question  ")
        assert newest.endswith(r"oracle/answer: nobody \x1b[31mknows[/]")
        assert other.startswith("✓ completed    good  question  ")
        assert [
            each["id"] for each in json.loads(choreo("sagas", "--status", "completed", "--json").stdout)
        ] == ["good"]

        traced = choreo("trace", "bad")
        assert r"aborted: nobody \x1b[31mknows[/]" in traced.stdout
        assert traced.returncode == 0
        assert json.loads(choreo("trace", "good", "--json").stdout)["saga"]["id"] == "good"

        second = choreo("dev")
        assert f"process {dev.process.pid} already runs an engine" in second.stderr
        assert second.returncode == 2

        assert dev.end(signal.SIGINT) == 0
    assert "Traceback" not in dev.said
    assert not (own_terminal.folder / ".choreo" / "engine.json").exists()
    assert choreo("sagas").returncode == 3


def test_dev_on_a_server_that_is_there(terminal: Terminal) -> None:
    """With a server given, `choreo dev` starts none; its data are there, not beside streams.yaml."""
    with terminal.running("dev", says="choreo is running") as dev:
        assert terminal.run("start", "Asked", "--data", '{"question": ""}', "--wait").returncode == 0
        assert dev.end() == 0
    assert not (terminal.folder / ".choreo").exists()


def test_dev_notices_that_its_server_has_ended(own_terminal: Terminal) -> None:
    """Without the server nothing works any more, so `dev` says so and ends."""
    with own_terminal.running("dev", says="choreo is running") as dev:
        announced = json.loads((own_terminal.folder / ".choreo" / "engine.json").read_text())
        os.kill(announced["pid"], signal.SIGKILL)
        assert dev.process.wait(PATIENCE) == 3
        assert "the embedded server has ended by itself" in dev.said


def test_dev_ends_at_once_when_told_twice(own_terminal: Terminal) -> None:
    """The first Ctrl-C lets a handler finish, the second does not wait for it; the server ends either way."""
    with own_terminal.running("dev", says="choreo is running") as dev:
        server = json.loads((own_terminal.folder / ".choreo" / "engine.json").read_text())["pid"]
        own_terminal.run("start", "Asked", "--data", '{"question": "hard"}')
        wait_until((own_terminal.folder / "thinking").exists)
        dev.process.send_signal(signal.SIGINT)
        dev.wait_until_it_says("has stopped")
        assert dev.end(signal.SIGINT) == 130
    assert not is_alive(server)


def test_participants_and_tracker_as_processes(terminal: Terminal) -> None:
    """Each part in a process of its own; the tracker can be rebuilt beside it; SIGTERM ends each cleanly."""
    choreo = terminal.run
    with (
        terminal.running(
            "run", "participant", "oracle:thinker", "--workers", "1", says="is ready"
        ) as thinker,
        terminal.running("run", "participant", "oracle", says="is ready") as oracle,
        terminal.running("run", "tracker", says="is ready") as tracker,
    ):
        assert (
            choreo("start", "Asked", "--saga-id", "a", "--data", '{"question": ""}', "--wait").returncode == 0
        )
        before = choreo("sagas", "--json").stdout
        assert choreo("tracker", "rebuild").stdout.startswith("projected ")
        wait_until(lambda: choreo("sagas", "--json").stdout == before)
        for each in (thinker, oracle, tracker):
            each.process.terminate()
        assert [each.process.wait(PATIENCE) for each in (thinker, oracle, tracker)] == [0, 0, 0]
        assert "has stopped" in oracle.said


def test_workers_stop_together(terminal: Terminal) -> None:
    """--workers runs several processes; a signal to the first is passed on to all."""
    with terminal.running("run", "participant", "oracle", "--workers", "2", says="is ready") as crew:
        wait_until(lambda: crew.said.count("is ready") == 2)
        workers = crew.children()
        assert len(workers) == 2
        assert crew.end() == 0
        assert crew.said.count("has stopped") == 2
    assert not any(map(is_alive, workers))


def test_a_worker_that_dies_is_no_secret(terminal: Terminal) -> None:
    """If one process of several dies, it is said which and how, the others stop, and the exit code is 1."""
    with terminal.running("run", "participant", "oracle", "--workers", "2", says="is ready") as crew:
        wait_until(lambda: crew.said.count("is ready") == 2)
        killed, other = crew.children()
        os.kill(killed, signal.SIGKILL)
        assert crew.process.wait(PATIENCE) == 1
        assert f"(process {killed}) was ended by SIGKILL; stopping the others" in crew.said
    assert not is_alive(other)


def test_workers_do_not_outlive_their_supervisor(terminal: Terminal) -> None:
    """If the process that was started is killed, its workers notice and stop by themselves."""
    with terminal.running("run", "participant", "oracle", "--workers", "2", says="is ready") as crew:
        wait_until(lambda: crew.said.count("is ready") == 2)
        workers = crew.children()
        crew.end(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)))
        assert crew.said.count("has stopped") == 2


def test_following_and_compensating_by_hand(terminal: Terminal) -> None:
    """--follow prints the tree once, at the end. An operator's word unwinds a running saga, and no other."""
    choreo = terminal.run
    with (
        terminal.running("run", "participant", "oracle", says="is ready"),
        terminal.running("run", "tracker", says="is ready"),
    ):
        choreo("start", "Asked", "--saga-id", "a", "--data", '{"question": "silence"}')
        wait_until(lambda: "no event" in choreo("trace", "a").stdout)
        asked = choreo("compensate", "a")
        assert asked.returncode == 2
        ordered = choreo("compensate", "a", "--yes", "--note", "she knows")
        assert ordered.stdout == "↶ compensating\n"
        assert ordered.returncode == 0
        followed = choreo("trace", "a", "--follow").stdout
        assert "↶ compensated in " in followed
        assert ": she knows\n" in followed
        assert "take_back  undone 1st" in followed
        assert followed.count("● Asked") == 1
        again = choreo("compensate", "a", "--yes")
        assert "saga 'a' is compensated already" in again.stderr
        assert again.returncode == 1


def test_an_operator_is_asked(own_terminal: Terminal) -> None:
    """On a terminal, `compensate` asks before it does anything; no is an answer, with exit code 1."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        process = subprocess.Popen(
            _command("compensate", "a\x1b[31m"), cwd=own_terminal.folder, stdin=theirs,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SOURCE)}, text=True,
        )  # fmt: skip
        os.close(theirs)
        keyboard.write(b"n\n")
        _, asked = process.communicate(timeout=PATIENCE)
    assert asked.startswith(r"Undo all that saga a\x1b[31m has done? [y/N]")
    assert process.returncode == 1


def test_news_that_is_bad(terminal: Terminal) -> None:
    """What is not known, taken or not over in time is exit code 1; text from outside stays harmless."""
    choreo = terminal.run
    with terminal.running("run", "tracker", says="is ready"):
        assert choreo("trace", "nobody").returncode == 1
        assert choreo("compensate", "nobody", "--yes").returncode == 1
        begun = choreo(
            "start", "Asked", "--saga-id", "a", "--data", '{"question": ""}', "--wait", "--timeout", "200ms"
        )
        assert begun.stdout == "a\n"
        assert "saga 'a' is still running after 0.2 s" in begun.stderr
        assert begun.returncode == 1
        assert choreo("start", "Asked", "--saga-id", "a", "--data", '{"question": "other"}').returncode == 1
        refused = choreo("start", "Asked", "--saga-id", "a\x1b[31m", "--data", '{"question": ""}')
        assert refused.returncode == 2
        assert "\x1b" not in refused.stderr
        assert "→ nobody listens to Asked" in choreo("trace", "a").stdout


def test_sagas_that_are_stuck(terminal: Terminal) -> None:
    """`choreo sagas --stuck` is bad news if a saga does not move, and says what it waits for."""
    with terminal.running("run", "tracker", says="ready"):
        terminal.run("start", "Asked", "--data", '{"question": "when?"}', "--saga-id", "q1")
        wait_until(lambda: terminal.run("sagas", "--stuck", "--for", "0s").returncode == 1)
    shown = terminal.run("sagas", "--stuck", "--for", "0s").stdout
    assert "▶ running  q1  question  nothing has happened for " in shown
    assert "  → nobody listens to Asked\n" in shown
    (found,) = json.loads(terminal.run("sagas", "--stuck", "--for", "0s", "--json").stdout)
    assert found["saga"]["id"] == "q1"
    assert [each["what"] for each in found["waits"]] == ["listener"]
    moving = terminal.run("sagas", "--stuck", "--for", "1h")
    assert moving.returncode == 0
    assert "No saga is stuck" in moving.stderr


def test_a_reader_that_has_seen_enough(terminal: Terminal) -> None:
    """`choreo ... | head -1` is no error, whatever is left unread."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ran = subprocess.run(
            _command("graph"), cwd=terminal.folder, env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    assert ran.stderr == ""
    assert ran.returncode == 0
