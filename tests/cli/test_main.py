"""The command line as it is used, and misused; nothing here needs a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from choreo.cli.commands import STATES
from choreo.cli.main import cli
from choreo.cli.settings import Settings
from choreo.model.saga import State
from tests.conftest import StartServer

Choreo: TypeAlias = Callable[..., Result]

PARTICIPANT = """
from choreo import Event, Participant

class Asked(Event):
    question: str

class Answered(Event):
    answer: str

oracle = Participant("{name}")

@oracle.on(Asked)
async def answer(asked: Asked) -> Answered:
    return Answered("42")
"""
STREAMS = """
namespace: test
partitions: 2
streams:
  questions: {{events: [Asked, Answered]}}
participants:
  oracle: {module}:oracle
sagas:
  question: {{starts_with: Asked, completes_with: [Answered]}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a choreography of one participant, which is the current one."""
    module = f"oracle_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(PARTICIPANT.format(name="oracle"))
    (tmp_path / "streams.yaml").write_text(STREAMS.format(module=module))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for variable in ("CHOREO_REDIS_URL", "CHOREO_CONFIG", "CHOREO_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def choreo(folder: Path) -> Choreo:
    """Runs a command in ``folder``: ``choreo("start", "Asked")``."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin)

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["sagas", "--bogus"], "No such option"),
        (["run"], "choreo run participant NAME"),
        (["tracker"], "choreo tracker rebuild"),
        (["run", "participant"], "Missing argument"),
        (["run", "participant", "oracle", "--workers", "0"], "'--workers'"),
        (["run", "participant", "oracel"], "did you mean `oracle`"),
        (["run", "participant", "nowhere:x"], "no module `nowhere`"),
        (["sagas", "--status", "happy"], "'happy' is not one of 'running'"),
        (["sagas", "--since", "yesterday"], "write 200ms, 30s, 5m, 1h or 7d"),
        (["sagas", "--redis", "http://localhost"], "'http://localhost' is not a server's URL"),
        (["sagas", "--redis", "redis://[::1"], "is not a server's URL"),
        (["sagas", "--stuck", "--since", "1h"], "leave out --status and --since"),
        (["sagas", "--for", "1h"], "give --stuck, too"),
        (["start", "Askd"], "did you mean `Asked`"),
        (["start", "Answered"], "no saga of streams.yaml starts with Answered"),
        (["start", "Asked"], "missing required field `question`"),
        (["start", "Asked", "--data", '{"question": 7}'], "Expected `str`, got `int` - at `$.question`"),
        (["start", "Asked", "--data", "{question: 7}"], "data-not-json"),
        (["start", "Asked", "--data", "{}", "--file", "x"], "give the payload once"),
        (["start", "Asked", "-", "--file", "x"], "give the payload once"),
        (["start", "Asked", "--file", "nowhere.json"], "Could not open file 'nowhere.json'"),
        (["start", "Asked", "--timeout", "5s"], "--timeout says how long to --wait"),
        (["compensate", "x"], "give --yes"),
        (["compensate", "x", "--yes", "--note", "a\x1b[31mb"], "--note must be one line of printable text"),
        (["dlq"], "choreo dlq list, show, replay or drop"),
        (["dlq", "list", "--state", "happy"], "'happy' is not one of 'open'"),
        (["dlq", "show"], "Missing argument 'LETTER'"),
        (["dlq", "replay"], "name letters"),
        (["dlq", "replay", "x", "--all"], "not both"),
        (["dlq", "replay", "--all", "--data", "{}"], "are for one letter; name it"),
        (["dlq", "replay", "x", "--data", "{}", "--file", "y"], "give the payload once"),
        (["dlq", "replay", "x", "--set", "type"], "--set takes NAME=VALUE"),
        (["dlq", "drop"], "name letters"),
        (["dlq", "drop", "x", "--note", "a\x1b[31mb"], "--note must be one line of printable text"),
        (["retry"], "Missing argument 'ID'"),
        (["resolve", "x"], "Missing option '--note'"),
        (["resolve", "x", "--note", " "], "--note must say what was put right"),
        (["pause"], "Missing argument 'PARTICIPANT'"),
        (["check", "-c", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["--config", "nowhere.yaml", "dev"], "nowhere.yaml: there is no such file"),
        (["graph", "--format", "png"], "'png' is not one of 'tree'"),
    ],
)
def test_wrong_use_is_told(choreo: Choreo, arguments: list[str], said: str) -> None:
    """Exit code 2, nothing on standard output, and a message that says what is wrong; never a traceback."""
    result = choreo(*arguments)
    assert said in result.stderr
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_an_unreachable_server_is_named(choreo: Choreo) -> None:
    """Exit code 3; the message names the server, without its password, and how to get one."""
    result = choreo("sagas", "--redis", "redis://ada:secret@localhost:1/0")
    assert result.exit_code == 3
    assert "redis://ada:***@localhost:1/0: " in result.stderr
    assert "`choreo dev` starts one" in result.stderr
    assert "secret" not in result.output


def test_a_server_that_is_there_and_cannot_serve(choreo: Choreo, server_process: StartServer) -> None:
    """Exit code 3, and nobody is told to start a server."""
    server = server_process({"maxmemory": "1"})
    result = choreo("start", "Asked", "--data", '{"question": ""}', "--redis", server.url)
    assert result.exit_code == 3
    assert "OOM" in result.stderr
    assert "`choreo doctor` may say why" in result.stderr
    assert "`choreo dev`" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["sagas"], ["trace", "x"], ["start", "Asked", "--data", '{"question": ""}'], ["tracker", "rebuild"],
        ["compensate", "x", "--yes"], ["dlq", "list"], ["dlq", "show", "x"], ["dlq", "replay", "x"],
        ["dlq", "drop", "x", "--yes"], ["retry", "x"], ["resolve", "x", "--note", "so"], ["pause", "oracle"],
        ["resume", "oracle"], ["dev"],
    ],
)  # fmt: skip
def test_every_command_that_needs_a_server_says_so(choreo: Choreo, command: list[str]) -> None:
    """One message and exit code 3, however the command is built inside. Only `run` waits for its server."""
    result = choreo(*command, "--redis", "redis://localhost:1/0")
    assert result.stderr.count("redis://localhost:1/0: ") == 1
    assert result.exit_code == 3


def test_a_bug_is_no_traceback(choreo: Choreo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is one line and exit code 70; CHOREO_DEBUG=1 shows where it happened."""
    monkeypatch.setattr("choreo.cli.checking.load", int)
    result = choreo("check")
    assert result.exit_code == 70
    assert result.stderr.startswith("choreo: this is a bug in choreo: TypeError: int() argument must be")
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("CHOREO_DEBUG", "1")
    assert "Traceback (most recent call last)" in choreo("check").stderr


def test_help_is_for_every_command(choreo: Choreo) -> None:
    """Each command says what it does; none is without a help text."""
    alone = ["dev", "run", "start", "sagas", "trace", "compensate", "tracker", "check", "graph"]
    below = [["run", "participant"], ["run", "tracker"], ["tracker", "rebuild"]]
    for path in [[], *([name] for name in alone), *below]:
        result = choreo(*path, "--help")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()[2]) > 20
    assert "Exit codes:" in choreo("--help").stdout


def test_nothing_is_not_enough(choreo: Choreo) -> None:
    """`choreo` alone shows the help, and is wrong use."""
    result = choreo()
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_version(choreo: Choreo) -> None:
    """`choreo --version` says which one this is."""
    result = choreo("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("choreo ")


def test_help_is_fast() -> None:
    """`choreo --help` loads none of the libraries that it does not need."""
    code = "import sys; from choreo.cli.main import cli; cli.main(['--help'])"
    watch = "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    ran = subprocess.run(
        [sys.executable, "-c", code.replace("; ", f"; {watch}", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("Usage: ")
    loaded = set(ran.stderr.split())
    assert "click" in loaded
    assert loaded.isdisjoint({"redis", "rich", "yaml", "anyio"})


def test_states_are_those_of_sagas() -> None:
    """The list of states that --status takes is written out, so that the help need not load the model."""
    assert tuple(State) == STATES


def test_check_finds_nothing_here(choreo: Choreo) -> None:
    """A choreography in order: exit code 0, and what was looked at."""
    result = choreo("check")
    assert result.exit_code == 0
    assert result.stdout == "✓ nothing found in 1 participant, 1 step, 2 event types, 1 saga\n"


def test_check_tells_every_finding(choreo: Choreo, folder: Path) -> None:
    """All at once with file and line; warnings alone are fine unless --strict, errors are bad news."""
    file = folder / "streams.yaml"
    file.write_text(file.read_text().replace("Answered]}\np", "Answered, Unknown]}\np"))
    warned = choreo("check")
    assert warned.exit_code == 0
    assert "streams.yaml:5: warning event-unknown: stream questions carries Unknown" in warned.stdout
    assert warned.stdout.endswith("\n1 warning\n")
    assert choreo("check", "--strict").exit_code == 1
    file.write_text(file.read_text().replace("completes_with: [Answered]", "completes_with: [Unknown]"))
    failed = choreo("check")
    assert failed.exit_code == 1
    assert "error saga-without-end" in failed.stdout
    (first, *_) = json.loads(choreo("check", "--json").stdout)
    assert set(first) == {"where", "severity", "code", "what"}


def test_check_of_what_cannot_be_read(choreo: Choreo, folder: Path) -> None:
    """Every fault of the file at once, and exit code 2; as JSON too, if that was asked for."""
    (folder / "streams.yaml").write_text("namespace: X\nstreams: {a: {events: []}}\n")
    result = choreo("check")
    assert result.exit_code == 2
    assert "streams.yaml:1: " in result.stderr
    assert "streams.yaml:2: " in result.stderr
    as_json = choreo("check", "--json")
    assert as_json.exit_code == 2
    assert {each["code"] for each in json.loads(as_json.stdout)} == {"configuration"}


def test_a_participant_that_cannot_be_imported(choreo: Choreo, folder: Path) -> None:
    """Its place is told; `start` then checks less, and does not mention it."""
    (module,) = folder.glob("oracle_*.py")
    module.write_text("import nothing_of_this_name\n")
    broken = choreo("check")
    assert broken.exit_code == 2
    assert "nothing_of_this_name" in broken.stderr
    started = choreo("start", "Asked", "--data", "{}", "--redis", "redis://localhost:1/0")
    assert started.exit_code == 3
    assert "nothing_of_this_name" not in started.stderr


@pytest.mark.parametrize("form", ["tree", "mermaid", "dot", "json"])
def test_graph_in_every_form(choreo: Choreo, form: str) -> None:
    """The picture names the participant's step and its events."""
    result = choreo("graph", "--format", form)
    assert result.exit_code == 0
    assert "Answered" in result.stdout
    assert "answer" in result.stdout


def test_graph_as_json(choreo: Choreo) -> None:
    """--json is --format json."""
    assert json.loads(choreo("graph", "--json").stdout)["version"] == 1


def test_options_before_and_after_the_command(choreo: Choreo, folder: Path) -> None:
    """--config may stand on either side of the command; the one behind it wins."""
    (folder / "streams.yaml").rename(folder / "other.yaml")
    assert choreo("check").exit_code == 2
    assert choreo("-c", "other.yaml", "check").exit_code == 0
    assert choreo("check", "-c", "other.yaml").exit_code == 0
    assert choreo("-c", "nowhere.yaml", "check", "-c", "other.yaml").exit_code == 0


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag, else CHOREO_CONFIG, else streams.yaml in the current folder."""
    monkeypatch.delenv("CHOREO_CONFIG", raising=False)
    assert Settings().path == Path("streams.yaml")
    monkeypatch.setenv("CHOREO_CONFIG", "from/env.yaml")
    assert Settings().path == Path("from/env.yaml")
    assert Settings(config="flag.yaml").path == Path("flag.yaml")


def test_flags_of_the_command_win() -> None:
    """What the command leaves open is as it was given before it."""
    before = Settings("a.yaml", "redis://a", 1)
    assert Settings().over(before) == before
    assert Settings("b.yaml", "redis://b", 2).over(before) == Settings("b.yaml", "redis://b", 2)
