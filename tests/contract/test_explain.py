"""`toilcache explain` as a person uses it, while a leader runs and after it has ended, on this machine and on
Slurm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import explain_workflow
from tests.contract.slurm_bench import NAME, SlurmBench
from tests.runs import Place
from toilcache.batch.model import JobRequest
from toilcache.batch.slurm.client import SlurmClient
from toilcache.batch.slurm.reasons import REASONS
from toilcache.batch.slurm.waits import SlurmWaits
from toilcache.cli import main
from toilcache.job_store.file_job_store import FileJobStore

REFUSED = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"


class Asked:
    """A place, and the command about its job store."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.capsys = capsys

    def answer(self, job: str) -> dict[str, Any]:
        assert main(["explain", "--json", "--", str(self.place.store), job]) == 0
        (found,) = json.loads(self.capsys.readouterr().out)["jobs"]
        return dict(found)

    def overview(self) -> dict[str, Any]:
        assert main(["explain", "--json", "--", str(self.place.store)]) == 0
        return dict(json.loads(self.capsys.readouterr().out))


@pytest.fixture
def asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(Place(tmp_path, explain_workflow.__file__), capsys)


def standing(place: Place) -> dict[str, Any]:
    path = place.store / "leader" / "1.standing"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def test_a_workflow_that_runs_and_that_has_ended(asked: Asked) -> None:
    place, gate = asked.place, asked.place.base / "gate"
    small = ("--defaultMemory", "10M", "--defaultDisk", "10M", "--maxCores", "1")
    more = ("--retryCount", "1", "--retryBackoff", "50", "--gate", str(gate))
    process = place.begin(*small, *more)
    # One of the two has the only core, so that the failing one may have had its turn before or not at all.
    place.wait_for(lambda: standing(place).get("waits") and len(standing(place)["runs"]) == 1, process)
    states = {name: asked.answer(name) for name in ("root", "first", "second", "last", "behind")}
    assert states["root"]["state"] == "returned"
    running, waiting = sorted((states["first"], states["second"]), key=lambda one: one["state"], reverse=True)
    assert (running["state"], running["why"].split(",")[0]) == ("running", "runs")
    assert waiting["state"] == "issued"
    assert waiting["why"].startswith("waits for 1 core: 0")
    assert waiting["waits for"] == ["cores"]
    assert states["last"]["state"] == states["behind"]["state"] == "waiting"
    assert [line for line in states["behind"]["because"] if line.startswith("'bad' ")] != []
    overview = asked.overview()
    assert (overview["leader"], overview["run"]) == (True, 1)
    assert sum(one["count"] for one in overview["issued"] if one["begun"]) == 1
    process.terminate()
    place.finish(process)
    after = asked.overview()
    assert after["leader"] is False
    found = asked.answer(running["job"])
    assert "--restart" in " ".join(found["because"])


def test_a_failed_workflow_names_what_failed_and_who_waits_for_that(asked: Asked) -> None:
    gate = asked.place.base / "gate"
    gate.touch()
    done = asked.place.run("--defaultMemory", "10M", "--defaultDisk", "10M", "--gate", str(gate))
    assert done.status == 1
    bad, behind = asked.answer("bad"), asked.answer("behind")
    assert (bad["state"], behind["state"]) == ("failed", "waiting")
    assert bad["why"].endswith("ValueError: no such thing")
    assert behind["because"][0].startswith(f"'bad' {bad['job']} has failed for good")
    assert asked.answer(bad["job"][:9])["job"] == bad["job"]
    assert main(["explain", "--", str(asked.place.store), "first"]) == 0
    text = asked.capsys.readouterr().out
    assert "'first'" in text
    assert "is done, with all that follows it" in text
    assert "no leader runs this workflow" in text


def test_no_such_job_and_no_such_workflow_are_one_line(asked: Asked) -> None:
    asked.place.run("--gate", "x", "--maxCores", "0.05")
    for arguments in (["--", str(asked.place.store), "nobody"], ["--", str(asked.place.store / "none")]):
        assert main(["explain", *arguments]) == 1
        err = asked.capsys.readouterr().err
        assert err.startswith("toilcache: error: cannot ")
        assert err.count("\n") == 1


# Slurm


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SlurmBench]:
    made = SlurmBench(tmp_path)
    yield made
    made.open_gate()
    made.close()


def waits(bench: SlurmBench) -> SlurmWaits:
    works = [bench.store.work(run) for run in range(bench.run, 0, -1)]
    client = SlurmClient(NAME, environ=bench.slurm.environment)
    return SlurmWaits(works, client, json.loads(json.dumps(bench.adapter.standing())))


def busy(bench: SlurmBench) -> list[JobRequest]:
    """Both slots of the cluster are taken, and a job of another kind waits for a worker."""
    running = [bench.waiting(), bench.waiting()]
    bench.adapter.submit(running)
    bench.await_running(2)
    late = bench.quick(cores=2)
    bench.adapter.submit([late])
    bench.hear(lambda: len(bench.slurm.tasks("PENDING")) > 0)
    return [*running, late]


def test_who_runs_where_and_who_waits_for_a_worker(bench: SlurmBench) -> None:
    first, _, late = requests = busy(bench)
    before = len(bench.slurm.calls("squeue"))
    found = waits(bench)
    runs, waiting = found.of([first, late])
    assert runs.begun
    assert runs.words.startswith(f"runs on {runs.facts['node']}, in job ")
    assert runs.since is not None
    assert not waiting.begun
    assert waiting.words.startswith("waits for a worker: 1 worker is pending in Slurm, Resources (")
    assert waiting.facts["reasons"] == {"Resources": 1}
    summary = found.summary([(one.job_id, one.version) for one in requests])
    assert [(count, wait.begun) for count, wait in summary] == [(2, True), (1, False)]
    assert len(bench.slurm.calls("squeue")) == before + 1, "one question, however many jobs"


def test_reasons_in_words_and_unknown_ones_as_they_are(bench: SlurmBench) -> None:
    late = busy(bench)[-1]
    for reason, words in (("Priority", f"Priority ({REASONS['Priority']})"), ("MoonPhase", "MoonPhase")):
        bench.slurm.set_reason(reason)
        assert waits(bench).of([late])[0].words.endswith(f"pending in Slurm, {words}")


def test_an_image_counts_as_being_fetched_only_for_allocations_that_run(bench: SlurmBench) -> None:
    """Who was killed has not taken its word back."""
    late = busy(bench)[-1]
    work = bench.store.work(bench.run)
    (queue,) = [queue for queue in work.queues() if queue.startswith("2.000-")]
    task = next(iter(bench.slurm.tasks("RUNNING"))).split("_")
    told = "waits for container image 'an image', which is being fetched for n7; "
    for identity, begin in ((task, told), (["999", "0"], "waits for a worker: ")):
        line = " ".join([queue, "n7", b"an image".hex(), *identity, "-"])
        with work.fetching("0123456789abcdef", line):
            assert waits(bench).of([late])[0].words.startswith(f"{begin}1 worker is pending in Slurm, ")
    assert work.fetches() == []


def test_a_controller_that_does_not_answer_is_no_answer_about_the_job(bench: SlurmBench) -> None:
    first, _, late = busy(bench)
    bench.slurm.always("squeue", instead=True, stderr=REFUSED.replace("sbatch", "squeue"))
    runs, waiting = waits(bench).of([first, late])
    assert runs.begun, "the job store tells that"
    assert waiting.words.startswith("waits for a worker; Slurm cannot be asked: ")
    assert "Unable to contact slurm controller" in waiting.words


def test_a_refusal_that_passes_is_told_with_the_next_time(bench: SlurmBench) -> None:
    bench.slurm.always("sbatch", instead=True, stderr=REFUSED)
    late = bench.quick()
    bench.adapter.submit([late])
    (found,) = waits(bench).of([late])
    assert found.words.startswith("waits for a worker: Slurm refused it: ")
    assert "the leader asks again in " in found.words
    bench.slurm.always("sbatch")
    bench.adapter.cancel([late.job_id])


def test_what_is_in_no_queue(bench: SlurmBench) -> None:
    (found,) = waits(bench).of([bench.quick()])
    assert found.words == "waits to be put into a queue for workers"


def test_the_batch_system_of_the_store_is_asked(
    bench: SlurmBench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = busy(bench)[-1]
    bench.config.batchSystem = "slurm"
    bench.store.write_config()
    store = FileJobStore(bench.store.path)
    store.resume()
    name = f"toilcache-{str(store.config.workflowID)[:16]}"
    with store.append_journal(bench.run) as journal:
        begin = {"t": 1.0, "e": "begin", "job": late.job_id, "run": bench.run, "name": "late"}
        issue = {"t": 2.0, "e": "issue", "job": late.job_id, "version": late.version, "name": "late"}
        journal.writelines(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in (begin, issue))
    for variable, value in bench.slurm.environment.items():
        monkeypatch.setenv(variable, value)
    assert main(["explain", "--json", "--", store.path, "late"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["jobs"]
    assert found["state"] == "issued"
    assert found["why"].startswith("waits for a worker")
    assert any(f"--name={name}" in call.arguments for call in bench.slurm.calls("squeue"))
