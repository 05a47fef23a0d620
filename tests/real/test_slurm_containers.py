"""Jobs in containers of Apptainer on a real Slurm cluster of four nodes, as a user without privileges."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real.test_slurm import begin
from tests.testbed.fixtures import Engines
from tests.testbed.slurm_cluster import wait_for
from tests.testbed.slurm_fixtures import ROOT, Site, site, the_machine

__all__ = ["site", "the_machine"]

PATIENCE = 200.0  # seconds

pytestmark = [pytest.mark.real, pytest.mark.slow]


def boxed(site: Site, engines: Engines, image: str) -> tuple[list[str], dict[str, str]]:
    """Options and environment of a workflow in containers; the cluster has one image cache."""
    options = ["--container", image, "--containerEngine", "singularity"]
    options += ["--imageCache", str(site.home / "images")]
    return options, {"PATH": f"{engines.programs}{os.pathsep}{site.cluster.environment['PATH']}"}


def demo_script(site: Site) -> Path:
    """The demo beside its data, in a directory of its own."""
    place = site.cluster.shared / "demo"
    shutil.copytree(ROOT / "examples", place)
    shutil.copy(ROOT / "tests/real/slurm_demo.py", place)
    return place / "slurm_demo.py"


def test_the_demo_in_containers_on_four_nodes(site: Site, engines: Engines) -> None:
    """The right answer, one download of each file for each node, nothing left."""
    script, gate = demo_script(site), site.cluster.shared / "demo" / "gate"
    options, environment = boxed(site, engines, engines.image("singularity"))
    options += ["--workerIdleTime", "1"]  # the root's worker, which has one processor, makes room
    process = site.begin(script, *options, "--gate", str(gate), "./boxed", **environment)
    store = site.home / "boxed"
    claims = "work/1/q/4.000-*/[0-9]*/[0-9]*"
    wait_for(lambda: len(list(store.glob(claims))) == 4, "a slice on each node", PATIENCE)
    gate.touch()
    done = site.finish(process)
    assert done.status == 0, done.err
    aligned, agreeing, jobs, seen = ast.literal_eval(done.out)
    assert (aligned >= 18000, agreeing >= 17500, jobs) == (True, True, 11)
    assert {node for node, _ in seen} == set(site.cluster.nodes)
    assert max(fetched for _, fetched in seen) <= 3, "each file once for each node: index, reads, reads"
    assert not store.exists()
    site.check_clean()


def test_an_image_is_fetched_once_for_all_nodes(site: Site, engines: Engines) -> None:
    """The first fetch is held up until all four nodes wait for it, and their jobs say so."""
    name, place = site.new_name(), site.cluster.shared / "fetches"
    archive = place / "an image.tar"
    programs = watched_builds(place, engines)
    save = ["docker", "save", "--output", str(archive), engines.image("docker", "py313")]
    subprocess.run(save, env=os.environ | engines.environment, check=True)
    archive.chmod(0o644)
    options, environment = boxed(site, engines, f"docker-archive:{archive}")
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    options[0] = "--image"
    options += ["--defaultCores", "3", "--workerIdleTime", "1", "--retryCount", "0"]
    process = site.begin(site.script("tests/real/slurm_image.py"), *options, f"./{name}", **environment)
    wait_for(
        lambda: waits_for_image(site, name) == [*site.cluster.nodes], "all nodes to want the image", PATIENCE
    )
    (place / "go").touch()
    done = site.finish(process)
    assert (done.status, done.out) == (0, "result 3.13 3.13 3.13 3.13\n"), done.err
    assert len((place / "builds").read_text().splitlines()) == 1
    site.check_clean()


def watched_builds(place: Path, engines: Engines) -> Path:
    """A directory with an Apptainer that counts what it builds, and waits for the file `go` first."""
    (place / "bin").mkdir(parents=True)
    program = place / "bin/apptainer"
    program.write_text(
        f"""#!/bin/sh
case " $* " in *" build "*)
    echo build >>{place}/builds
    until [ -e {place}/go ]; do sleep 0.05; done ;;
esac
exec {engines.programs}/apptainer "$@"
"""
    )
    program.chmod(0o755)
    (place / "builds").touch()
    (place / "builds").chmod(0o666)
    return program.parent


def waits_for_image(site: Site, name: str) -> list[str]:
    """The nodes for which the image is being fetched, as `toilcache explain` says."""
    if not (site.home / name / "work/1").is_dir():
        return []
    told = json.loads(site.as_user(site.python, "-m", "toilcache", "explain", "--json", f"./{name}"))
    return [node for one in told["issued"] for node in one.get("nodes", [])]


def test_an_image_that_no_node_can_read_is_told_in_one_line(site: Site, engines: Engines) -> None:
    options, environment = boxed(site, engines, "/srv/no such image.sif")
    name = site.new_name()
    done = site.finish(begin(site, name, "--count", "2", "--retryCount", "0", *options, **environment))
    assert done.status != 0
    assert "cannot use image '/srv/no such image.sif'" in done.err
    assert "Traceback" not in done.err
    assert done.err.count("no such image.sif") == 1
    site.check_clean()


def test_a_warning_before_the_time_limit_ends_a_container(site: Site, engines: Engines) -> None:
    """The job waits for ever at its first try on that node."""
    script = site.script("tests/contract/container_workflow.py")
    options, environment = boxed(site, engines, engines.image("singularity"))
    options += ["--slurmTime", "60", "--slurmArgs=--nodelist=n2", "--kind", "waits"]
    done = site.run(script, *options, "./warned", **environment)
    assert (done.status, done.out) == (0, "result 'again'\n"), done.err
    assert "was ended shortly before the time limit of its allocation" in done.err
    site.check_clean()
