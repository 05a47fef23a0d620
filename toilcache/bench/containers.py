"""What a container costs beside none: the rows that need an engine and an image.

Knows how workflows with and without are paired. Must not know one engine from another.
"""

from __future__ import annotations

import os
import time
from functools import partial

from toilcache.bench.row import Budget, Row
from toilcache.bench.rows import run_workflow
from toilcache.containers.engines import make_engine
from toilcache.containers.model import ContainerSpec
from toilcache.errors import ContainerError

SIZES = (50, 450)


def container_rows(image: str | None, engine: str) -> dict[str, Row]:
    """Return the rows for an image; they measure only if there is one."""
    return {
        "container": Row(partial(_each_job, image, engine), "ms/job", Budget(5)),
        "container-first": Row(partial(_first_job, image, engine), "s", Budget(0.3)),
    }


def _each_job(image: str | None, engine: str, directory: str) -> float:
    """Milliseconds that a no-op sibling in a warm container costs more than one in none: the difference of
    two marginal times, each size with and without in turn.
    """
    boxed = _options(image, engine)
    seconds = {}
    for size in SIZES:
        for options in ((), boxed):
            seconds[size, options] = run_workflow("fan", size, directory, *options)["seconds"]
    few, many = SIZES
    inside = seconds[many, boxed] - seconds[few, boxed]
    outside = seconds[many, ()] - seconds[few, ()]
    return float(1000 * (inside - outside) / (many - few))


def _first_job(image: str | None, engine: str, directory: str) -> float:
    """Seconds that a workflow of one job takes longer in a container than in none, beyond what the engine
    needs to start Python in one.
    """
    options = _options(image, engine)
    inside = run_workflow("empty", 0, directory, *options)["wall"]
    outside = run_workflow("empty", 0, directory)["wall"]
    return float(inside - outside - _start(str(image), engine))


def _options(image: str | None, engine: str) -> tuple[str, ...]:
    if image is None:
        raise ContainerError("cannot measure containers: there is no image; add --container IMAGE")
    return ("--container", image, "--containerEngine", engine)


def _start(image: str, name: str) -> float:
    """Return the seconds from asking the engine to run Python in a container to its end there."""
    engine = make_engine(name)
    try:
        spec = ContainerSpec(
            engine.resolve(image), ("python3", "-c", ""), f"toilcache-bench-{os.urandom(6).hex()}"
        )
        began = time.perf_counter()
        container = engine.run(spec)
        try:
            engine.wait(container)
            return time.perf_counter() - began
        finally:
            engine.remove(container)
    finally:
        engine.close()
