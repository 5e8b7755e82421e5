"""Keys: what a saga id may be, and that everything of a saga lives in one slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.errors import InvalidSagaId
from choreo.model.event import NAME
from choreo.model.saga import State
from choreo.wire.keys import TRACKER_GROUP, Keys, check_saga_id
from choreo.wire.limits import MAX_NAME_CHARACTERS

names = st.from_regex(NAME, fullmatch=True)
saga_ids = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="{}") | st.just(" "),
    min_size=1, max_size=MAX_NAME_CHARACTERS,
)  # fmt: skip


def crc16(data: bytes) -> int:
    """CRC16 as Redis Cluster's specification gives it (XMODEM), bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
    return crc & 0xFFFF


def slot(key: str) -> int:
    """The slot of a key, as a cluster computes it: of what stands in the first braces, if anything does."""
    data = key.encode()
    start = data.find(b"{")
    end = data.find(b"}", start + 1)
    tag = data[start + 1 : end] if start >= 0 and end > start + 1 else data
    return crc16(tag) % 16384


def test_the_slot_is_computed_as_the_specification_says() -> None:
    """The check value of the cluster specification comes out."""
    assert crc16(b"123456789") == 0x31C3
    assert slot("{user1000}.following") == slot("user1000")
    assert slot("foo{}{bar}") == crc16(b"foo{}{bar}") % 16384


@given(names, st.integers(1, 64), names, saga_ids)
def test_everything_of_a_saga_lives_in_one_slot(
    namespace: str, partitions: int, name: str, saga_id: str
) -> None:
    """Whatever the names and the saga id are, every key of a partition is in the slot of its tag."""
    keys = Keys(namespace, partitions)
    partition = keys.partition(saga_id)
    assert 0 <= partition < partitions
    of_partition = [
        keys.stream(partition, name), keys.inbox(partition, name), keys.inbox_prefix(partition) + name,
        keys.journal(partition), keys.dead(partition), keys.letters(partition), keys.tracker(partition),
        keys.index(partition, name, State.RUNNING), keys.index(partition, "", State.RUNNING),
        keys.record(partition, saga_id), keys.work(partition, saga_id), keys.view(partition, saga_id),
        keys.trace(partition, saga_id),
    ]  # fmt: skip
    assert {slot(key) for key in of_partition} == {slot(f"{namespace}:{partition}")}


@given(names, saga_ids, saga_ids, names)
def test_no_two_things_share_a_key(namespace: str, saga_id: str, other_id: str, name: str) -> None:
    """Different things have different keys, whatever users call them."""
    keys = Keys(namespace, 1)
    of_saga = (keys.record, keys.work, keys.view, keys.trace)
    found = [
        keys.stream(0, name), keys.inbox(0, name), keys.journal(0), keys.dead(0), keys.letters(0),
        keys.tracker(0),
        keys.meta, keys.contracts,
        *(keys.index(0, saga_type, state) for saga_type in {name, ""} for state in State),
        *(key(0, each) for each in {saga_id, other_id} for key in of_saga),
    ]  # fmt: skip
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("saga_id", "partition"), [("order-1", 2), ("order-2", 1), ("a", 7), ("Käse", 2), ("a b", 1)]
)
def test_a_saga_stays_in_its_partition(saga_id: str, partition: int) -> None:
    """The partition of a saga is part of the layout: these never change, or sagas would be split."""
    assert Keys("shop", 8).partition(saga_id) == partition == crc16(saga_id.encode()) % 8


def test_no_participant_can_have_the_trackers_group() -> None:
    """The tracker's group has a name that participants cannot have."""
    assert not NAME.fullmatch(TRACKER_GROUP)


@given(saga_ids)
def test_printable_ids_are_taken_as_they_are(saga_id: str) -> None:
    """Any printable text without braces, up to the limit, is a saga id."""
    assert check_saga_id(saga_id) == saga_id


@pytest.mark.parametrize(
    "saga_id",
    ["", "x" * (MAX_NAME_CHARACTERS + 1), "a{b", "a}b", "{}", "a\nb", "a\x00b", "\x1b[31m", "\u202eabc",
     "\ud800", "a\u200bb", "\u2028", "\t", b"bytes", None, 5],
    ids=repr,
)  # fmt: skip
def test_other_ids_are_refused(saga_id: object) -> None:
    """Empty, long, with braces, with control or invisible characters, or no text at all."""
    with pytest.raises(InvalidSagaId, match="must be 1 to 128 printable characters without braces"):
        check_saga_id(saga_id)  # type: ignore[arg-type]


def test_a_refusal_does_not_repeat_a_huge_id() -> None:
    """The message about an absurd id is short, and shows control characters escaped."""
    with pytest.raises(InvalidSagaId) as caught:
        check_saga_id("\x1b" + "x" * 1_000_000)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)
