"""Room on a machine: arithmetic, and who goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilcache.batch.model import JobRequest
from toilcache.batch.resources import PATIENCE, Capacity, Pending, Pool
from toilcache.errors import InsufficientSystemResources
from toilcache.job.description import JobDescription

GIB = 1 << 30


def request(
    name: str = "a", cores: float = 1.0, memory: int = 1, disk: int = 1, accelerators: int = 0
) -> JobRequest:
    return JobRequest(name, 1, f"job {name}", cores, memory, disk, accelerators, False)


def pool(cores: float = 4.0, limit: int | None = None) -> Pool:
    return Pool(Capacity(cores, 8 * GIB, 100 * GIB, 2), limit)


def names(pending: Pending, room: Pool) -> list[str]:
    """Start all there is room for."""
    started = []
    while (found := pending.next(room)) is not None:
        room.take(found.shape)
        started.append(found.job_id)
    return started


def test_ten_tenths_of_a_core_are_one_core() -> None:
    room = pool(cores=1)
    for _ in range(10):
        assert room.fits(request(cores=0.1).shape)
        room.take(request(cores=0.1).shape)
    assert not room.fits(request(cores=0.1).shape)
    for _ in range(10):
        room.give(request(cores=0.1).shape)
    assert room.fits(request(cores=1).shape)


@given(st.lists(st.floats(0.001, 4), max_size=40))
def test_what_was_taken_comes_back_whole(cores: list[float]) -> None:
    room = pool()
    for share in cores:
        room.take(request(cores=share).shape)
    for share in reversed(cores):
        room.give(request(cores=share).shape)
    assert room.fits(request(cores=4, memory=8 * GIB, disk=100 * GIB, accelerators=2).shape)
    assert not room.fits(request(cores=4.001).shape)


@pytest.mark.parametrize(
    "large", [request(memory=8 * GIB), request(disk=100 * GIB), request(accelerators=2), request(cores=4)]
)
def test_each_resource_counts(large: JobRequest) -> None:
    room = pool()
    room.take(large.shape)
    assert not room.fits(large.shape)


def test_the_number_of_jobs_can_be_limited() -> None:
    room = pool(limit=2)
    for _ in range(2):
        assert room.fits(request(cores=0.001).shape)
        room.take(request(cores=0.001).shape)
    assert not room.fits(request(cores=0.001).shape)
    room.give(request(cores=0.001).shape)
    assert room.fits(request(cores=0.001).shape)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(cores=4.5), ["4.5", "cores", "4"]),
        (request(memory=9 * GIB), ["memory", "9", "8"]),
        (request(disk=101 * GIB), ["disk", "101", "100"]),
        (request(accelerators=3), ["accelerators", "3", "2"]),
    ],
)
def test_what_can_never_run_is_refused_by_name(asked: JobRequest, words: list[str]) -> None:
    with pytest.raises(InsufficientSystemResources) as refusal:
        pool().check(asked)
    assert all(word in str(refusal.value) for word in ["job a", *words])
    assert "\n" not in str(refusal.value)


def test_what_fits_an_empty_pool_is_not_refused_by_a_full_one() -> None:
    room = pool()
    room.take(request(cores=4).shape)
    room.check(request(cores=4, memory=8 * GIB, disk=100 * GIB, accelerators=2))


def test_first_come_first_served_within_a_shape() -> None:
    pending, room = Pending(), pool(cores=2)
    for name in "abc":
        pending.add(request(name))
    assert names(pending, room) == ["a", "b"]
    assert len(pending) == 1
    room.give(request().shape)
    assert names(pending, room) == ["c"]
    assert len(pending) == 0
    assert pending.next(room) is None


def test_first_come_first_served_among_shapes() -> None:
    pending = Pending()
    for name, memory in zip("abcdef", (1, 2, 1, 3, 2, 1), strict=True):
        pending.add(request(name, memory=memory))
    assert [shape[1] for shape, _ in pending.shapes()] == [1, 2, 3]
    assert pending.discard("a") is not None
    assert [shape[1] for shape, _ in pending.shapes()] == [2, 1, 3]
    room = pool(cores=1)
    started = []
    while found := pending.next(room):
        started.append(found.job_id)
    assert started == ["b", "c", "d", "e", "f"]


def test_a_shape_that_never_runs_out_does_not_starve_another() -> None:
    """The stream was there first, and there is always room for either."""
    pending, room = Pending(), pool(cores=1)
    pending.add(request("first"))
    pending.add(request("of the stream"))
    pending.add(request("other", memory=2))
    room.take(request().shape)
    started = []
    while "other" not in started:
        pending.add(request(f"later {len(started)}"))
        room.give(request().shape)
        started += names(pending, room)
        assert len(started) < 10
    assert started == ["first", "of the stream", "other"]


def test_small_jobs_fill_the_gaps() -> None:
    pending, room = Pending(), pool(cores=4)
    room.take(request(cores=2).shape)
    pending.add(request("large", cores=4))
    pending.add(request("small", cores=2))
    assert names(pending, room) == ["small"]


def test_small_jobs_do_not_starve_a_large_one() -> None:
    """Small ones come for ever; after so many of them the large one's turn is kept free."""
    pending, room = Pending(), pool(cores=4)
    room.take(request(cores=1).shape)
    pending.add(request("large", cores=4))
    before = 0
    running = [request(cores=1)]
    while True:
        pending.add(request(f"small {before}", cores=1))
        started = names(pending, room)
        if "large" in started:
            break
        running += [request(cores=1) for _ in started]
        before += len(started)
        assert before <= PATIENCE + 4
        if running:
            room.give(running.pop().shape)
    assert before >= PATIENCE // 2
    assert len(pending) > 0


def test_looking_for_room_in_vain_is_not_overtaking() -> None:
    """Each end of a job and each wake-up looks for room: nobody has gone first by that."""
    pending, room = Pending(), pool(cores=2)
    room.take(request(cores=1).shape)
    pending.add(request("large", cores=2))
    for _ in range(10 * PATIENCE):
        assert pending.next(room) is None
    pending.add(request("small", cores=1))
    assert names(pending, room) == ["small"]


def test_exactly_so_many_go_first() -> None:
    pending, room = Pending(), pool(cores=2)
    room.take(request(cores=1).shape)
    pending.add(request("large", cores=2))
    for number in range(2 * PATIENCE):
        pending.add(request(f"small {number}", cores=0.001))
    assert len(names(pending, room)) == PATIENCE


def test_nothing_fits_while_more_is_taken_than_there_is() -> None:
    room = pool(cores=2, limit=2)
    for _ in range(3):
        room.take(request(cores=1).shape)
    assert not room.fits(request(cores=0.001).shape)
    room.give(request(cores=1).shape)
    assert not room.fits(request(cores=0.001).shape)
    room.give(request(cores=1).shape)
    assert room.fits(request(cores=1).shape)


def test_the_patience_of_a_shape_begins_anew_when_it_is_gone() -> None:
    pending, room = Pending(), pool(cores=4)
    room.take(request(cores=1).shape)
    pending.add(request("large", cores=4))
    for number in range(PATIENCE + 1):
        pending.add(request(f"s{number}", memory=2))
        pending.next(room)
    assert pending.discard("large") is not None
    pending.add(request("large again", cores=4))
    pending.add(request("small"))
    assert pending.next(room) is not None


def test_taking_requests_out() -> None:
    pending = Pending()
    for name in "ab":
        pending.add(request(name))
    pending.add(request("c", cores=2))
    assert pending.only_shape() is None
    assert pending.discard("unknown") is None
    assert pending.discard("c") == request("c", cores=2)
    assert pending.only_shape() == request().shape
    assert pending.pop(request(cores=3).shape) is None
    assert pending.pop(request().shape) == request("a")
    assert pending.discard("b") == request("b")
    assert pending.only_shape() is None
    assert len(pending) == 0


def test_a_request_says_what_the_description_says() -> None:
    desc = JobDescription(
        {"memory": "2 GiB", "cores": 0.5, "disk": 10, "accelerators": [{"count": 2, "kind": "gpu"}]}, "name"
    )
    desc.jobStoreID, desc.version, desc.displayName = "0123456789abcdef", 7, "it's a\njob"
    from toilcache.config import Config

    desc.assignConfig(Config(defaultPreemptible=True))
    made = JobRequest.of(desc)
    assert made == JobRequest("0123456789abcdef", 7, "it's a\njob", 0.5, 2 * GIB, 10, 2, True)
    assert made.shape == (0.5, 2 * GIB, 10, 2, None)
