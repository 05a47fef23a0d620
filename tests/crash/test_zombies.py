"""Attempts that were given up and come back change nothing: they are refused by the store itself (I2).

Real worker code in processes of which the leader does not know, stopped before each of the steps by which it
changes the store, n = 1, 2, ...; meanwhile a leader gives the attempt up and has the job done elsewhere. Then
the zombie goes on to its end. And with a real leader: a whole host stopped and continued.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.crash import zombie_jobs
from tests.crash.store_tree import reached, tree
from tests.crash.suspended import Suspended, end_what_is_left
from tests.crash.zombie_jobs import SMALL, Outcome, Server
from tests.fakes.job_stores import Bench
from tests.fakes.leader_stage import Stage
from tests.fakes.null_adapter import NullAdapter, ended
from tests.processes import runs
from toilcache.batch.model import JobRequest, Record, Update
from toilcache.job.exit_reason import BatchJobExitReason
from toilcache.job.job import Job
from toilcache.node.coordination import node_dirs
from toilcache.worker.chain import ENDED, REFUSED

pytestmark = pytest.mark.crash

GIVEN_UP = "when it is given up and the next attempt has not begun"
RUN_AGAIN = "when the next attempt has committed and the leader does not know it yet"
TWO_BEHIND = "when two more attempts have begun and the last one has committed"
GONE = "when the workflow is done and the job is deleted"
LONG_GONE = "when two more attempts have begun, the workflow is done and the job is deleted"
MOMENTS = (GIVEN_UP, RUN_AGAIN, TWO_BEHIND, GONE, LONG_GONE)


class World:
    """A workflow, one attempt of which becomes a zombie at a step and wakes up at a moment."""

    def __init__(self, home: Path, step: int, moment: str, caching: bool) -> None:
        home.mkdir()
        self.bench = Bench("file", home)
        self.stage = Stage(self.bench)
        self.store = Path(self.bench.where)
        self.stage.config.caching = caching
        self.stage.store.write_config()
        self.output = home / "output"
        self.server, self.elsewhere = self._node(home / "a"), self._node(home / "b")
        self.step = step
        self.moment = moment
        self.zombie: Outcome | None = None
        self.status: int | None = None
        self.lost = 0
        self.garbage: set[str] = set()

    def _node(self, place: Path) -> Server:
        """Workers on a node of their own: a zombie that holds a lock there is in nobody's way."""
        place.mkdir()
        dirs = node_dirs(str(self.stage.config.workflowID), str(place), str(place))
        setup = {
            "locator": self.stage.store.locator,
            "jobs_dir": dirs.jobs,
            "node": (dirs.workflow_id, str(place), str(place)),
            "sys_path": [],
            "main": None,
            "preload": False,
        }
        return Server(self.bench.where, setup, str(self.output))

    def close(self) -> None:
        """End both nodes, first the one that was made last: it holds pipes of the other open."""
        self.elsewhere.close()
        self.server.close()

    def work(self, request: JobRequest) -> list[Update]:
        """Run an attempt elsewhere; the first one at the chain becomes a zombie."""
        if request.name == "first" and self.zombie is None:
            self.zombie = self.server.run(request.job_id, request.version, self.step)
            if self.zombie.status is None:
                return [ended(request, BatchJobExitReason.LOST)]
            assert self.zombie.status == ENDED, self.output.read_text()
            return [ended(request, BatchJobExitReason.FINISHED)]
        if request.name not in ("first", "second"):
            return self._run(request)
        if self.moment == GIVEN_UP:
            self.wake()
        if self.moment in (TWO_BEHIND, LONG_GONE) and not self.lost:
            self.lost += 1
            return [ended(request, BatchJobExitReason.LOST)]
        updates = self._run(request)
        if self.moment in (RUN_AGAIN, TWO_BEHIND):
            self.wake()
        return updates

    def _run(self, request: JobRequest) -> list[Update]:
        done = self.elsewhere.run(request.job_id, request.version)
        assert done.status == ENDED, self.output.read_text()
        hint = Record(request.job_id, request.version + 1)
        return [hint, ended(request, BatchJobExitReason.FINISHED)]

    def wake(self) -> None:
        """Let the zombie go on to its end; nothing of the store changes but for garbage."""
        if self.zombie is None or self.zombie.status is not None or self.status is not None:
            return
        jobs = reached(self.bench.another(resume=True))
        before = tree(self.store, jobs)
        self.status = self.server.wake(self.zombie).status
        after = tree(self.store, jobs)
        assert {name: after.get(name) for name in before} == before, "a zombie has changed the store"
        new = tree(self.store).keys() - before.keys()
        self.garbage = {name for name in new if (self.store / name).is_file()}
        assert list(self.store.rglob(".tmp-*")) == []

    def check_end(self) -> None:
        """One effect of each job, the right value, and nothing that the zombie has brought."""
        store = self.bench.another(resume=True)
        assert store.get_root_job_return_value() == 100_000
        contents = [path.read_bytes() for path in self.store.glob("kept/*/*/*/*") if path.is_file()]
        assert sorted(contents) == [b"second", b"uploaded"]
        kinds = Counter((event["e"], event["job"]) for event in self.events() if event["e"] == "commit")
        assert set(kinds.values()) == {1}, "a job has committed twice"
        assert len(kinds) == 5
        assert self.garbage & tree(self.store).keys() == set()
        assert len(list(self.store.glob("jobs/*/*"))) == 2, "the root, whose value is that of the last job"

    def events(self) -> Iterator[dict[str, Any]]:
        """What the leaders' journals say."""
        for path in sorted(self.store.glob("journal/*")):
            yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def haunt(base: Path, moment: str, caching: bool, first: int, stride: int) -> None:
    """Have a zombie at each of these steps, until there are no more."""
    statuses: list[int | None] = []
    for step in itertools.count(first, stride):
        world = World(base / str(step), step, moment, caching)
        try:
            root = world.stage.save(Job.wrapJobFn(zombie_jobs.root, **SMALL))
            world.stage.lead(NullAdapter(world.work), root)
            world.wake()
            world.stage.store.clean()
            world.check_end()
        finally:
            world.close()
        statuses.append(world.status)
        assert world.status in (None, ENDED, REFUSED), world.output.read_text()
        if world.zombie is not None and world.zombie.status is not None:
            break
    counts = Counter(statuses)
    print(f"{len(statuses) - 1} zombies, {counts[REFUSED]} of them refused")
    assert counts[ENDED] <= 6 / stride + 1, "only what comes after the last commit is not refused"
    assert counts[REFUSED] >= 40 / stride - 1


@pytest.mark.parametrize("caching", [False, True], ids=["plain", "caching"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_zombie_changes_nothing(tmp_path: Path, moment: str, caching: bool) -> None:
    """It may stand in the first job of a chain or in the next, in the middle of an upload or of a commit."""
    haunt(tmp_path, moment, caching, 1 + 2 * MOMENTS.index(moment) + caching, stride=8)


@pytest.mark.soak
@pytest.mark.parametrize("caching", [False, True], ids=["plain", "caching"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_zombie_at_any_step_changes_nothing(tmp_path: Path, moment: str, caching: bool) -> None:
    haunt(tmp_path, moment, caching, 1, stride=1)


# With a real leader on the same machine


@pytest.mark.parametrize("who", ["job", "host"])
def test_a_stopped_worker_is_given_up_and_gone_before_its_job_is_done_elsewhere(
    tmp_path: Path, who: str, request: pytest.FixtureRequest
) -> None:
    """Where the adapter can reach the worker it kills it: stopped processes too, and a host that is deaf."""
    place = Suspended(tmp_path)
    request.addfinalizer(lambda: end_what_is_left(place))
    leader = place.at_work("--maxJobDuration", "8s", "--retryCount", "2", "--retryBackoff", "0.01")
    (pid,) = place.workers()
    job = psutil.Process(pid)
    zombies = [job] if who == "job" else [job, psutil.Process(job.ppid())]
    for zombie in zombies:
        zombie.suspend()
    place.wait_for(lambda: len(place.workers()) == 2, leader)
    place.release()
    place.wait_for(place.is_settled, leader)
    before = place.tree()
    for zombie in zombies:
        with suppress(psutil.NoSuchProcess):
            zombie.resume()
    assert not any(runs(zombie) for zombie in zombies)
    assert place.tree() == before
    place.go()
    done = place.finish(leader)
    done.check_result(42)
    assert "was killed: it ran longer than --maxJobDuration 8 s (2 tries left)" in done.err
    assert sorted(place.kept()) == [b"early", b"late"]
    place.check_clean()
