"""The power is cut at random moments of the workflow of the kill tests: `--restart` ends it right (I3).

A moment is how far the leader's journal has come, drawn by a printed seed, so that the speed of the machine
does not matter; some are moments of the start, before there is a journal. Many cuts are taken of one run.
Of some of those restarts the power is cut too, mostly while they recover, and what that leaves is restarted.

`POWER_SEED=... POWER_CUTS=... POWER_AGAIN=...` repeats the cuts of one run and of its restarts; `make soak`
under TESTBED=1 does eight runs and cuts each restart.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash import kill_workflow
from tests.crash.test_kills import Workflow
from tests.fakes.power_cut import Disk, lose_the_node, rebooted, without_sync
from tests.runs import DEADLINE
from toilcache.job_store.abstract import AbstractJobStore
from toilcache.leader.journal import replay

CUTS = int(os.environ.get("POWER_CUTS", "6"))
AGAIN = int(os.environ.get("POWER_AGAIN", "2"))
SEED = int(os.environ.get("POWER_SEED", "1"))
SOAK_RUNS, SOAK_CUTS = 8, 25
START_SECONDS = 0.6
RECOVERY_SECONDS = 0.3
JOURNAL_BYTES = 45_000
ANSWER = f"result {kill_workflow.EXPECTED}\n"


class Cut(NamedTuple):
    """A copy of the disk, and what had happened before it was taken."""

    image: Path
    moment: str
    begun: bool
    told: str


class PoweredWorkflow(Workflow):
    """The workflow of the kill tests with its job store on a disk whose power can be cut."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.base)
        self.disk = disk
        self.store = disk.place / "the store"
        self.out, self.err = disk.base / "out", disk.base / "err"

    def argv(self, *options: str) -> list[str]:
        return [
            *(sys.executable, kill_workflow.__file__, str(self.store), "--clean", "never"),
            *("--workDir", str(self.work), "--coordinationDir", str(self.coordination)),
            *("--retryBackoff", "0.05", "--maxLocalJobs", "4", "--maxCores", "4", *options),
        ]

    def start(self, argv: list[str], **environment: str) -> subprocess.Popen[str]:
        with self.out.open("w") as out, self.err.open("w") as err:
            return subprocess.Popen(argv, env=os.environ | environment, stdout=out, stderr=err, text=True)

    def newest_run(self) -> int:
        return max((int(path.name) for path in self.store.glob("leader/*") if path.name.isdigit()), default=0)

    def journal_bytes(self, run: int = 1) -> int:
        try:
            return (self.store / "journal" / f"{run}.jsonl").stat().st_size
        except OSError:
            return 0

    def cut(self, name: str, moment: str) -> Cut:
        begun, told = self.journal_bytes() > 0, self.out.read_text()
        return Cut(self.disk.cut(name), moment, begun, told)

    def cut_again(self, first: Cut, draw: random.Random, run: int, leader: subprocess.Popen[str]) -> Cut:
        """Cut the power of a restart: soon after it has begun to lead, or early in its journal."""
        seconds, size = draw.uniform(0, RECOVERY_SECONDS), int(JOURNAL_BYTES ** draw.random())
        self.wait_for(lambda: self.newest_run() >= run, leader)
        if draw.random() < 0.5:
            time.sleep(seconds)
            moment = f"{seconds:.3f} s after the claim"
        else:
            self.wait_for(lambda: self.journal_bytes(run) >= size, leader)
            moment = f"{size} bytes of journal"
        begun, told = first.begun or self.journal_bytes(run) > 0, first.told or self.out.read_text()
        image = self.disk.cut(f"{first.image.name}-again")
        return Cut(image, f"{first.moment} and another of run {run}, {moment}", begun, told)

    def run_with_cuts(self, draw: random.Random, count: int, **environment: str) -> list[Cut]:
        """Run the workflow to its end and cut the power now and then, and once right after its last word."""
        starts = sorted(draw.uniform(0, START_SECONDS) for _ in range(count // 8))
        sizes = sorted(draw.randrange(1, JOURNAL_BYTES) for _ in range(count - len(starts) - 1))
        begin = time.monotonic()
        leader = self.start(self.argv(), KILL_TEST_PAUSE="0", **environment)
        cuts = []
        try:
            for seconds in starts:
                time.sleep(max(0.0, begin + seconds - time.monotonic()))
                cuts.append(self.cut(f"start-{seconds}", f"{seconds:.3f} s after the start"))
            for size in sizes:
                self.wait_for(lambda size=size: self.journal_bytes() >= size, leader)
                cuts.append(self.cut(f"journal-{size}", f"{size} bytes of journal"))
            self.wait_for(self.out.read_text, leader)
            cuts.append(self.cut("last", "after the last word"))
            assert leader.wait(DEADLINE) == 0, self.err.read_text()
        finally:
            leader.kill()
            leader.wait()
        assert self.out.read_text() == ANSWER
        return cuts

    def restart(self, *options: str, cut: Callable[[int, subprocess.Popen[str]], None] | None = None) -> int:
        """Go on as a person does whose machine comes back; `cut` is told the run and its process."""
        lose_the_node([self.work, self.coordination], self.store)
        run = self.newest_run() + 1
        leader = self.start(rebooted(self.argv(*options), self.base), KILL_TEST_PAUSE="0")
        try:
            if cut is not None:
                cut(run, leader)
            return leader.wait(DEADLINE)
        finally:
            leader.kill()
            leader.wait()

    def issued_again(self) -> list[str]:
        """The jobs that the newest run has issued."""
        newest = max((self.store / "journal").glob("*.jsonl"), key=lambda path: int(path.stem))
        return [event["job"] for event in replay(newest.read_bytes().splitlines()) if event["e"] == "issue"]

    def check(self, cut: Cut, draw: random.Random | None = None) -> list[Cut]:
        """The right answer, each job's effects once, and nothing lost that a person was told.

        With `draw` the power is cut in that restart too: returns what that has left.
        """
        again: list[Cut] = []

        def cut_it(run: int, leader: subprocess.Popen[str]) -> None:
            if draw is not None:
                again.append(self.cut_again(cut, draw, run, leader))

        with self.disk.after(cut.image):
            status = self.restart("--restart", cut=cut_it)
            if status != 0 and not cut.begun:  # there was no workflow yet to restart
                assert "start the workflow" in self.err.read_text(), f"{cut.moment}: {self.err.read_text()}"
                again.clear()
                status = self.restart(cut=cut_it)
            assert status == 0, f"{cut.moment}: {self.err.read_text()}"
            self.check_answer(self.out.read_text())
            if cut.told:
                assert cut.told == ANSWER
                assert self.issued_again() == [], f"{cut.moment}: it was done"
        return again


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with new_disk(tmp_path / 'power\'s "cut"') as disk:
        yield disk


def new_disk(base: Path) -> Disk:
    base.mkdir()
    return Disk(base)


def cuts_at_random(disk: Disk, seed: int, count: int, again: int) -> tuple[int, int]:
    """Run the workflow, check each of some cuts, and cut as many of these restarts as `again` says.

    Returns how many cuts of the run, and how many of its restarts, came before the end.
    """
    print(f"POWER_SEED={seed} POWER_CUTS={count} POWER_AGAIN={again}")
    workflow = PoweredWorkflow(disk)
    draw = random.Random(seed)
    cuts = workflow.run_with_cuts(draw, count)
    # After the last word there is little left to restart, so that is cut only where all are.
    chosen = draw.sample(range(count), again) if again == count else draw.sample(range(count - 1), again)
    seconds: list[Cut] = []
    for number, cut in enumerate(cuts):
        left = workflow.check(cut, random.Random(f"{seed}-{number}") if number in chosen else None)
        print(f"right after a cut {cut.moment}")
        for second in left:
            workflow.check(second)
            print(f"right after a cut {second.moment}")
        seconds += left
    assert len(seconds) == again
    before = sum(not cut.told for cut in cuts), sum(not cut.told for cut in seconds)
    print(f"{before[0]} of {count} cuts, and {before[1]} of {again} of restarts, were before the end")
    return before


@pytest.mark.real
@pytest.mark.crash
def test_what_a_power_cut_leaves_can_be_restarted(disk: Disk) -> None:
    first, second = cuts_at_random(disk, SEED, CUTS, AGAIN)
    assert first > CUTS // 2
    assert second >= AGAIN // 2


@pytest.mark.real
@pytest.mark.soak
def test_what_200_power_cuts_leave_can_be_restarted(tmp_path: Path) -> None:
    """And what is left where the power is cut in each of these restarts as well."""
    first = second = 0
    for run in range(SOAK_RUNS):
        with new_disk(tmp_path / f"run {run}") as disk:
            found = cuts_at_random(disk, 100 * SEED + run, SOAK_CUTS, SOAK_CUTS)
            first, second = first + found[0], second + found[1]
    cuts = SOAK_RUNS * SOAK_CUTS
    print(
        f"{cuts} cuts, {first} before the workflow had ended; as many of restarts, {second} before their end"
    )
    assert min(first, second) > cuts // 2


@pytest.mark.real
@pytest.mark.crash
def test_as_soon_as_a_cut_leaves_the_name_of_the_root_there_is_a_workflow_to_restart(disk: Disk) -> None:
    workflow = PoweredWorkflow(disk)
    name = workflow.store / "shared" / AbstractJobStore.rootJobStoreIDFileName
    leader = workflow.start(workflow.argv(), KILL_TEST_PAUSE="0")
    cuts: list[Cut] = []
    try:
        workflow.wait_for(name.exists, leader)
        while workflow.journal_bytes() == 0:
            cuts.append(workflow.cut(f"named-{len(cuts)}", f"number {len(cuts)} since the root was named"))
        workflow.wait_for(lambda: False, leader)
    finally:
        leader.kill()
        leader.wait()
    workflow.check(next((cut for cut in cuts if disk.shows(cut.image, name)), cuts[-1]))


@pytest.mark.real
@pytest.mark.crash
def test_without_syncing_a_power_cut_loses_what_was_said_to_be_done(disk: Disk) -> None:
    """The rig can tell: nothing reaches this disk unless it is asked for."""
    workflow = PoweredWorkflow(disk)
    *_, last = workflow.run_with_cuts(random.Random(SEED), 1, **without_sync())
    assert (last.told, last.begun) == (ANSWER, True)
    with pytest.raises(AssertionError, match="after the last word"):
        workflow.check(last)
