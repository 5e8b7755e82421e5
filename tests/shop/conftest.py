"""What the shop's tests can ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from shop_calls import PAIRS, Pair

from participants.store import Store


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[dict[str, Store]]:
    """The stores of payments, inventory and shipping, by participant, in ``tmp_path``."""
    with ExitStack() as stack:
        yield {pair.participant: stack.enter_context(closing(pair.open_store(tmp_path))) for pair in PAIRS}


@pytest.fixture(params=PAIRS, ids=lambda pair: pair.participant)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each step that has an undo, in turn."""
    return request.param


@pytest.fixture
def store(stores: dict[str, Store], pair: Pair) -> Store:
    """The store of ``pair``'s participant."""
    return stores[pair.participant]
