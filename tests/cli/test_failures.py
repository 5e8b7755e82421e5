"""Every error becomes a message and an exit code, in one place."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path

import click
import pytest

from choreo.cli.failures import explain
from choreo.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    ContractError,
    EngineError,
    Fault,
    InvalidSagaId,
    LayoutMismatch,
    PayloadTooLarge,
    SagaClosed,
    SagaConflict,
    SagaNotFound,
    UnroutableEvent,
    UnsupportedServer,
    WaitTimeout,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SagaNotFound("x"), 1), (SagaConflict("x"), 1), (WaitTimeout("x"), 1),
        (SagaClosed("x", "completed"), 1),
        (ConfigurationError("x"), 2), (LayoutMismatch("x"), 2), (ContractError("x"), 2),
        (UnroutableEvent("x"), 2), (InvalidSagaId("x"), 2), (PayloadTooLarge("x"), 2),
        (UnsupportedServer("x"), 2), (BrokerRefused("x"), 2), (EngineError("x"), 2),
        (click.UsageError("x"), 2), (click.FileError("x"), 2),
        (BrokerUnavailable("x"), 3),
        (LookupError("x"), 70), (RecursionError(), 70),
        (KeyboardInterrupt(), 130), (click.Abort(), 130),
        (BrokenPipeError(), 0),
    ],
)  # fmt: skip
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad news is 1, wrong use 2, an unreachable server 3, a bug 70, Ctrl-C 130; a closed pipe is fine."""
    monkeypatch.setattr("choreo.cli.failures._give_up_stdout", lambda: None)
    assert explain(error).code == code
    assert explain(ExceptionGroup("group", [error]) if isinstance(error, Exception) else error).code == code


def test_a_group_tells_each_error_once() -> None:
    """Four workers that cannot reach one server say so once; what is worst decides on the code."""
    lost = BrokerUnavailable("connection refused")
    wrong = ConfigurationError([Fault("streams.yaml:3", "is wrong"), Fault("streams.yaml:9", "too")])
    failure = explain(ExceptionGroup("", [lost, ExceptionGroup("", [lost, lost]), wrong]))
    assert failure.lines == ["connection refused", "streams.yaml:3: is wrong", "streams.yaml:9: too"]
    assert failure.code == 2


def test_a_bug_is_called_one() -> None:
    """One line, no traceback, and how to get it."""
    assert explain(LookupError("no such thing")).lines == [
        "this is a bug in choreo: LookupError: no such thing",
        "Set CHOREO_DEBUG=1 to see the traceback.",
    ]


def test_an_interruption_is_quiet() -> None:
    """Who pressed Ctrl-C knows it."""
    assert explain(BaseExceptionGroup("", [KeyboardInterrupt()])).lines == []


def test_a_participant_that_fails_is_named(tmp_path: Path) -> None:
    """An error of a participant's own code is no bug in choreo: its place is told."""
    file = tmp_path / "payments.py"
    file.write_text("import sqlite3\n\n\ndef open_store():\n    sqlite3.connect('/nowhere/at/all')\n")
    spec = importlib.util.spec_from_file_location("payments", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(sqlite3.OperationalError) as caught:
        module.open_store()
    failure = explain(caught.value)
    assert failure.code == 2
    # The innermost frame outside of libraries is meant, also when a test called it.
    assert failure.lines[0].startswith(f"{file}:5: OperationalError: ")
