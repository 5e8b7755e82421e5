"""The failure matrix: every single fault of a choreography, as tests with readable names."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from bank import Bank, Refused, TransferDone, money_is_conserved

from choreo.testing import Case, Ends, NotReached, failure_matrix, rehearse
from choreo.testing.matrix import cases_of
from choreo.testing.trials import Verdict

ROOT = Path(__file__).resolve().parents[2]
CAST = Bank().harness().cast
CASES = cases_of(CAST)


@pytest.mark.anyio
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_money_is_conserved_whatever_fails(case: Case) -> None:
    """The bank of these tests, under each fault of its matrix."""
    await money_is_conserved(case.harness)


def test_every_handler_and_every_event_has_its_faults() -> None:
    """Each step and each undo with each fault, each event twice and late."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    for handler in ("debits/debit", "credits/credit", "ledger/note", "debits/debit/give_back", "credits/credit/take_back"):
        for fault in ("fails once", "fails once after its effect", "hangs once", "crashes before it runs",
                      "crashes after its effect", "crashes before commit", "crashes after commit"):  # fmt: skip
            assert f"{handler} {fault}" in names
    for step in ("debits/debit", "credits/credit", "ledger/note"):
        for fault in ("fails for good", "hangs for good", "aborts"):
            assert f"{step} {fault}" in names
        assert f"unwound after {step}" in names
    for event in ("TransferRequested", "Debited", "Credited"):
        assert {f"{event} comes twice", f"{event} comes late"} <= set(names)
    assert "credits loses the server" in names
    assert "events are reordered" in names


def test_as_parameters_of_pytest() -> None:
    """Ids are readable, and can be given to pytest on a command line."""
    participants, ends = Bank().participants(), Ends(completes_with=TransferDone, aborts_with=Refused)
    parameters = failure_matrix(participants=participants, ends=ends)
    assert [each.values[0].name for each in parameters] == [case.name for case in CASES]
    assert "debits/debit-crashes-after-its-effect" in [each.id for each in parameters]


@pytest.mark.anyio
async def test_what_cannot_happen_is_skipped() -> None:
    """A fault of a handler that does not run in these sagas makes a skipped test, and no failed one."""
    (case,) = (case for case in CASES if case.name == "credits/credit/take_back fails once")
    with pytest.raises(NotReached, match="happened 0 times"):
        async with Bank().play(case.harness) as town:
            await town.finish()


def test_rehearse() -> None:
    """All cases in a row, each with its outcome; a planted bug violates some."""
    trials = dict(rehearse(partial(money_is_conserved, forgetful=True), CASES))
    bad = {case.name: trial for case, trial in trials.items() if trial.verdict is Verdict.VIOLATED}
    assert "debits/debit/give_back crashes after its effect" in bad
    assert "debits/debit/give_back fails once after its effect" in bad
    assert all("give_back" in name for name in bad)
    for case, trial in trials.items():
        if case.name in bad:
            assert "cents" in str(trial.error)
            assert "saga-1" in trial.tree
            assert "give_back" in case.line
        else:
            assert trial.error is None


def test_the_reference_shop_has_a_matrix() -> None:
    """It is derived from streams.yaml alone."""
    ids = [each.id for each in failure_matrix(ROOT / "streams.yaml")]
    assert "payments/charge/refund-crashes-before-commit" in ids
    assert "OrderPlaced-comes-twice" in ids
    assert len(ids) > 100


def test_skipped_by_pytest(tmp_path: Path) -> None:
    """pytest reports what was not reached as skipped, with the reason."""
    (tmp_path / "test_it.py").write_text(
        "import asyncio, pytest\n"
        "from bank import Bank\n"
        "from choreo.testing.matrix import cases_of\n"
        "CASES = [c for c in cases_of(Bank().harness().cast) if 'note hangs once' in c.name]\n"
        "@pytest.mark.parametrize('case', CASES)\n"
        "def test_it(case):\n"
        "    async def main():\n"
        "        async with Bank().play(case.harness): pass\n"
        "    asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'testing'}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "1 skipped" in done.stdout
    assert "planted, but did not happen" in done.stdout
