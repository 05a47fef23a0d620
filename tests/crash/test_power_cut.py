"""The power is cut at random moments of the workflow of the kill tests: `--restart` ends it right (I3).

A moment is how far the leader's journal has come, drawn by a printed seed, so that the speed of the machine
does not matter; some are moments of the start, before there is a journal. Many cuts are taken of one run.

`POWER_SEED=... POWER_CUTS=...` repeats the cuts of one run; `make soak` under TESTBED=1 does eight runs.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash import kill_workflow
from tests.crash.test_kills import Workflow
from tests.fakes.power_cut import Disk, lose_the_node, rebooted, without_sync
from tests.runs import DEADLINE
from toilcache.leader.journal import replay

CUTS = int(os.environ.get("POWER_CUTS", "6"))
SEED = int(os.environ.get("POWER_SEED", "1"))
SOAK_RUNS, SOAK_CUTS = 8, 25
START_SECONDS = 0.6
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

    def journal_bytes(self) -> int:
        try:
            return (self.store / "journal" / "1.jsonl").stat().st_size
        except OSError:
            return 0

    def cut(self, name: str, moment: str) -> Cut:
        begun, told = self.journal_bytes() > 0, self.out.read_text()
        return Cut(self.disk.cut(name), moment, begun, told)

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

    def restart(self, *options: str) -> int:
        """Go on as a person does whose machine comes back."""
        lose_the_node([self.work, self.coordination], self.store)
        leader = self.start(rebooted(self.argv(*options), self.base), KILL_TEST_PAUSE="0")
        try:
            return leader.wait(DEADLINE)
        finally:
            leader.kill()
            leader.wait()

    def issued_again(self) -> list[str]:
        """The jobs that the newest run has issued."""
        newest = max((self.store / "journal").glob("*.jsonl"), key=lambda path: int(path.stem))
        return [event["job"] for event in replay(newest.read_bytes().splitlines()) if event["e"] == "issue"]

    def check(self, cut: Cut) -> None:
        """The right answer, each job's effects once, and nothing lost that a person was told."""
        with self.disk.after(cut.image):
            status = self.restart("--restart")
            if status != 0 and not cut.begun:  # there was no workflow yet to restart
                assert "start" in self.err.read_text(), self.err.read_text()
                status = self.restart()
            assert status == 0, f"{cut.moment}: {self.err.read_text()}"
            self.check_answer(self.out.read_text())
            if cut.told:
                assert cut.told == ANSWER
                assert self.issued_again() == [], f"{cut.moment}: it was done"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with new_disk(tmp_path / 'power\'s "cut"') as disk:
        yield disk


def new_disk(base: Path) -> Disk:
    base.mkdir()
    return Disk(base)


def cuts_at_random(disk: Disk, seed: int, count: int) -> int:
    """Run the workflow and check each of some cuts; returns how many came before its end."""
    print(f"POWER_SEED={seed} POWER_CUTS={count}")
    workflow = PoweredWorkflow(disk)
    cuts = workflow.run_with_cuts(random.Random(seed), count)
    for cut in cuts:
        workflow.check(cut)
        print(f"right after a cut {cut.moment}")
    return sum(not cut.told for cut in cuts)


@pytest.mark.real
@pytest.mark.crash
def test_what_a_power_cut_leaves_can_be_restarted(disk: Disk) -> None:
    assert cuts_at_random(disk, SEED, CUTS) > CUTS // 2


@pytest.mark.real
@pytest.mark.soak
def test_what_200_power_cuts_leave_can_be_restarted(tmp_path: Path) -> None:
    cut_short = 0
    for run in range(SOAK_RUNS):
        with new_disk(tmp_path / f"run {run}") as disk:
            cut_short += cuts_at_random(disk, 100 * SEED + run, SOAK_CUTS)
    print(f"{SOAK_RUNS * SOAK_CUTS} cuts, {cut_short} of them before the workflow had ended")
    assert cut_short > SOAK_RUNS * SOAK_CUTS // 2


@pytest.mark.real
@pytest.mark.crash
def test_without_syncing_a_power_cut_loses_what_was_said_to_be_done(disk: Disk) -> None:
    """The rig can tell: nothing reaches this disk unless it is asked for."""
    workflow = PoweredWorkflow(disk)
    *_, last = workflow.run_with_cuts(random.Random(SEED), 1, **without_sync())
    assert (last.told, last.begun) == (ANSWER, True)
    with pytest.raises(AssertionError, match="after the last word"):
        workflow.check(last)
