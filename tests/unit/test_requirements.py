"""Requirements as people write them, and the defaults behind them."""

from __future__ import annotations

import pickle

import pytest

from toilcache.config import Config
from toilcache.errors import JobException, UnitError
from toilcache.job import Job, Requirer
from toilcache.job.requirements import accelerator_satisfies, parse_accelerators


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("memory", "2 GiB", 2**31),
        ("memory", 1000, 1000),
        ("disk", "1.5 MB", 1_500_000),
        ("cores", "0.5", 0.5),
        ("cores", 4, 4.0),
        ("preemptible", "true", True),
        ("preemptible", "No", False),
        ("preemptible", 1, True),
        ("accelerators", 2, [{"count": 2, "kind": "gpu"}]),
        ("accelerators", 0, []),
        ("accelerators", "gpu:3", [{"count": 3, "kind": "gpu"}]),
        ("accelerators", "4", [{"count": 4, "kind": "gpu"}]),
        ("accelerators", "cuda", [{"count": 1, "kind": "gpu", "api": "cuda"}]),
        ("accelerators", "amd:2", [{"count": 2, "kind": "gpu", "brand": "amd"}]),
        (
            "accelerators",
            "nvidia-tesla-k80:1, rocm:2",
            [
                {"count": 1, "kind": "gpu", "brand": "nvidia", "model": "nvidia-tesla-k80"},
                {"count": 2, "kind": "gpu", "api": "rocm"},
            ],
        ),
        ("accelerators", {"count": 1, "api": "cuda"}, [{"count": 1, "kind": "gpu", "api": "cuda"}]),
        ("accelerators", [1, "gpu"], [{"count": 1, "kind": "gpu"}, {"count": 1, "kind": "gpu"}]),
        ("accelerators", {"count": 0}, []),
        ("accelerators", {"brand": "amd"}, [{"count": 1, "kind": "gpu", "brand": "amd"}]),
        ("accelerators", [], []),
    ],
)
def test_values_are_read(name, given, read):
    assert getattr(Requirer({name: given}), name) == read


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        ("memory", "2 Gigs", "2 Gigs"),
        ("memory", True, "True"),
        ("cores", "many", "many"),
        ("disk", -1, "-1"),
        ("preemptible", "perhaps", "perhaps"),
        ("accelerators", "gpu:x", "gpu:x"),
        ("accelerators", ":", ":"),
        ("accelerators", True, "True"),
        ("accelerators", -1, "-1"),
        ("accelerators", {"count": "many"}, "many"),
        ("accelerators", {"knd": "gpu"}, "knd"),
    ],
)
def test_what_cannot_be_read_is_named(name, given, named):
    with pytest.raises(UnitError, match=named):
        Requirer({name: given})


def test_unknown_resource_is_refused():
    with pytest.raises(JobException, match="'memoory'"):
        Requirer({"memoory": 1})


def test_defaults_come_from_the_configuration():
    requirer = Requirer({"memory": 5})
    requirer.assignConfig(Config(defaultCores=3, defaultDisk=7, defaultPreemptible=True))
    assert (requirer.memory, requirer.cores, requirer.disk) == (5, 3.0, 7)
    assert requirer.preemptible is True
    assert set(requirer.requirements) == {"memory", "cores", "disk", "accelerators", "preemptible"}


def test_without_configuration_the_error_says_what_is_missing():
    with pytest.raises(JobException, match=r"cannot tell the cores of .*'fold'.*cores="):
        _ = Job(displayName="fold").cores


def test_requirements_can_be_set_and_scaled():
    job = Job(memory="1 GiB", cores=2)
    job.memory, job.cores, job.disk, job.preemptible = "2 GiB", "1.5", "3k", "no"
    job.accelerators = "gpu"
    assert (job.memory, job.cores, job.disk, job.preemptible) == (2**31, 1.5, 3072, False)
    assert job.accelerators == [{"count": 1, "kind": "gpu"}]
    job.description.scale("memory", 1.5)
    job.description.scale("cores", 2)
    assert (job.memory, job.cores) == (3 * 2**30, 3.0)
    job.description.scale("cores", 0.5)
    job.description.scale("memory", 1.0000001)
    assert (type(job.memory), job.cores) == (int, 1.5)
    job.cores, job.memory = 3, 3 * 2**30
    assert job.description.requirements_string() == "cores 3, memory 3 GiB, disk 3 KiB, 1 x gpu"


def test_preemptable_is_an_older_spelling():
    assert Job(preemptable=True).preemptible is True
    assert Job(preemptible=False, preemptable=True).preemptible is False


def test_requirements_survive_pickling_and_the_configuration_stays_behind():
    description = Job(memory="1 GiB").description
    description.assignConfig(Config())
    copy = pickle.loads(pickle.dumps(description))
    assert copy.memory == 2**30
    assert copy._config is None


def test_accelerators_at_hand_are_compared_by_what_is_asked():
    (have,) = parse_accelerators("nvidia-tesla-k80:4")
    assert accelerator_satisfies(have, {"count": 8, "kind": "gpu", "brand": "nvidia"})
    assert not accelerator_satisfies(have, {"kind": "gpu", "brand": "amd"})
    assert accelerator_satisfies(have, {"kind": "gpu", "brand": "amd"}, ignore=["brand"])
    assert parse_accelerators(None) == []
