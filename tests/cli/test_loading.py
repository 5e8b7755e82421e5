"""Importing participants: what is found, and what is said when something is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo.errors import ConfigurationError, ContractError, Fault
from choreo.loading import flow_of, import_root, load_all, load_participant
from choreo.model.participant import Participant
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology

EVENTS = """\
from choreo import Event

class Placed(Event):
    order_id: str

class Paid(Event):
    order_id: str
"""

PAYMENTS = """\
from choreo import Participant
from shop_under_test.contracts import Paid, Placed

payments = Participant("payments")

@payments.on(Placed)
def charge(order: Placed) -> Paid:
    return Paid(order.order_id)
"""

STREAMS = """\
namespace: shop
streams:
  orders: {events: [Placed, Paid]}
participants:
  payments: shop_under_test.payments:payments
sagas:
  order: {starts_with: Placed, completes_with: [Paid]}
"""


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    """What a test imports is forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package `shop_under_test` and a streams.yaml."""
    package = tmp_path / "shop_under_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "contracts.py").write_text(EVENTS)
    (package / "payments.py").write_text(PAYMENTS)
    (tmp_path / "streams.yaml").write_text(STREAMS)
    return tmp_path


def the_fault(spec: str, root: Path) -> Fault:
    """The one fault of a participant that cannot be loaded."""
    with pytest.raises(ConfigurationError) as caught:
        load_participant(spec, root)
    (fault,) = caught.value.faults
    return fault


def write(shop: Path, text: str, name: str = "broken") -> Path:
    """Another module in the package."""
    path = shop / "shop_under_test" / f"{name}.py"
    path.write_text(text)
    return path


class TestOne:
    """One participant by `module:attribute`."""

    def test_a_participant_is_imported_from_the_root(self, shop: Path) -> None:
        """The root is first on the path, and stands there once however often it is used."""
        participant = load_participant("shop_under_test.payments:payments", shop)
        assert participant.name == "payments"
        assert load_participant("shop_under_test.payments:payments", shop) is participant
        assert sys.path[0] == str(shop)
        assert sys.path.count(str(shop)) == 1

    @pytest.mark.parametrize("spec", ["payments", "os.path:", "a b:c", "os:path.join", "f():x", ""])
    def test_anything_but_module_and_attribute_is_refused(self, spec: str, tmp_path: Path) -> None:
        """Before anything is imported."""
        what = the_fault(spec, tmp_path).what
        assert what.endswith("names no participant; write `package.module:attribute`")
        assert str(tmp_path) not in sys.path

    @pytest.mark.parametrize(
        ("spec", "missing"),
        [
            ("shop_under_test.paymentz:payments", "shop_under_test.paymentz"),
            ("shop_not_there.payments:payments", "shop_not_there"),
            ("shop_under_test.payments.deeper:payments", "shop_under_test.payments.deeper"),
        ],
    )
    def test_a_module_that_is_not_there(self, spec: str, missing: str, shop: Path) -> None:
        """The part of the name that is missing is told, and where it was looked for."""
        fault = the_fault(spec, shop)
        assert fault.where == spec
        assert fault.what.startswith(f"there is no module `{missing}` (looked for in {shop} and on Python's")

    def test_an_import_within_the_module_that_fails(self, shop: Path) -> None:
        """Then it is not this module that is missing, but what it imports, in that line."""
        path = write(shop, "import os\nimport stripe_not_there.api\n")
        fault = the_fault("shop_under_test.broken:x", shop)
        assert fault == Fault(
            f"{path}:2",
            "module `shop_under_test.broken` needs `stripe_not_there`, which cannot be found;"
            " install it or correct the import",
        )

    def test_a_name_that_cannot_be_imported(self, shop: Path) -> None:
        """`from module import name` where the module has no such name."""
        path = write(shop, "from shop_under_test.contracts import Refunded\n")
        fault = the_fault("shop_under_test.broken:x", shop)
        assert fault.where == f"{path}:1"
        assert "ImportError: cannot import name 'Refunded'" in fault.what

    def test_an_attribute_that_is_not_there(self, shop: Path) -> None:
        """A similar one is offered, else all that there are."""
        assert the_fault("shop_under_test.payments:payment", shop).what.endswith(
            "has no `payment`; did you mean `payments`?"
        )
        assert the_fault("shop_under_test.payments:xyz", shop).what.endswith(
            "has no `xyz`; its participants are: payments"
        )
        assert the_fault("shop_under_test.contracts:xyz", shop).what.endswith("its participants are: none")

    def test_an_attribute_that_is_no_participant(self, shop: Path) -> None:
        """What it is instead is told."""
        fault = the_fault("shop_under_test.payments:charge", shop)
        assert fault.what == (
            "`shop_under_test.payments:charge` is of type Step, not a participant; name a choreo.Participant"
        )

    def test_a_broken_contract_passes_through(self, shop: Path) -> None:
        """Contract errors say themselves where and what."""
        path = write(shop, PAYMENTS.replace("-> Paid", "-> int"))
        with pytest.raises(ContractError, match=rf"{path}:6: charge: its return annotation holds"):
            load_participant("shop_under_test.broken:payments", shop)

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def (", "SyntaxError: invalid syntax"),
            ("import json; json.loads('x')", "JSONDecodeError: Expecting value"),
            ("raise ValueError('x' * 9999)", "ValueError: xxx"),
        ],
    )
    def test_a_module_that_raises(self, line: str, what: str, shop: Path) -> None:
        """The line in the user's own code is named, not that in some library."""
        path = write(shop, f"import os\n\n{line}\n")
        fault = the_fault("shop_under_test.broken:x", shop)
        assert fault.where == f"{path}:3"
        assert fault.what.startswith(f"module `shop_under_test.broken` cannot be imported: {what}")
        assert len(fault.what) < 1_100

    def test_a_line_in_a_function_or_another_module(self, shop: Path) -> None:
        """The raising line itself, wherever in the user's code it is."""
        helper = write(shop, "def boom():\n    raise RuntimeError('no')\n", "helper")
        write(shop, "from shop_under_test.helper import boom\nboom()\n")
        assert the_fault("shop_under_test.broken:x", shop).where == f"{helper}:2"


class TestAll:
    """All participants of a streams.yaml."""

    def test_all_of_a_topology(self, shop: Path) -> None:
        """They are imported from the folder of the file, in its order."""
        participants = load_all(load(shop / "streams.yaml"))
        assert [participant.name for participant in participants] == ["payments"]
        assert isinstance(participants[0], Participant)

    def test_without_a_file_the_current_folder_is_the_root(
        self, shop: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A topology that was made in code has no folder of its own."""
        monkeypatch.chdir(shop)
        topology = Topology("shop", 1, {}, {"payments": "shop_under_test.payments:payments"})
        assert import_root(topology) == shop
        assert len(load_all(topology)) == 1

    def test_every_fault_is_told_at_once(self, shop: Path) -> None:
        """Each with its place in the code or, if it has none there, in the file."""
        broken = write(shop, "1 / 0\n")
        contract = write(shop, PAYMENTS.replace("-> Paid", "-> int"), "contract")
        unnamed = write(shop, "from choreo import Participant\nx = Participant('X Y')\n", "unnamed")
        file = shop / "streams.yaml"
        file.write_text(
            STREAMS.replace(
                "sagas:",
                "  billing: shop_under_test.payments:payments\n"
                "  missing: shop_under_test.missing:x\n"
                "  broken: shop_under_test.broken:x\n"
                "  again: shop_under_test.broken:y\n"
                "  contract: shop_under_test.contract:payments\n"
                "  unnamed: shop_under_test.unnamed:x\n"
                "sagas:",
            )
        )
        with pytest.raises(ConfigurationError) as caught:
            load_all(load(file))
        faults = caught.value.faults
        assert [fault.where for fault in faults] == [
            f"{file}:6", f"{file}:7", f"{broken}:1", f"{contract}:6", f"{unnamed}:2",
        ]  # fmt: skip
        assert faults[0].what == (
            "`shop_under_test.payments:payments` calls itself `payments`, but stands in the file as"
            " `billing`; give both the same name"
        )
        assert faults[3].what.startswith("charge: its return annotation holds")
        assert faults[4].what.startswith("participant name 'X Y' must match")

    def test_the_graph_of_a_topology(self, shop: Path) -> None:
        """Routes and sagas carry their lines in the file, steps theirs in the code."""
        topology = load(shop / "streams.yaml")
        flow = flow_of(topology, load_all(topology))
        file = shop / "streams.yaml"
        assert flow.plan.routes["Paid"].stream == "orders"
        assert flow.plan.routes["Paid"].where == f"{file}:3"
        (saga,) = flow.plan.sagas
        assert (saga.name, saga.where) == ("order", f"{file}:7")
        assert saga.starts_with == {"Placed"}
        assert flow.steps[0].where == f"{shop / 'shop_under_test' / 'payments.py'}:6"
