"""The demo, with slices that wait for a file and tell where they were and which file they read.

`python slurm_demo.py STORE --gate FILE`: the last line is the demo's answer and, for each slice, its node and
how many files the cache of that node had fetched when the slice had all its three.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import Any

import demo

from toilcache import Job, Toil
from toilcache.cache.place import database_path, generation_numbers
from toilcache.node.coordination import dirs_of

SLICE = {"cores": 4, "memory": "256 MiB", "disk": "64 MiB"}


def map_reads(job: Job, files: dict[str, str], parts: int, gate: str) -> Any:
    index = job.addChildJobFn(demo.index_genome, files["genome"], **demo.SMALL)
    inputs = index.rv(), files["reads1"], files["reads2"]
    slices = [index.addChildJobFn(map_slice, *inputs, part, parts, gate, **SLICE) for part in range(parts)]
    tables = [one.rv(0) for one in slices]
    merged = index.addFollowOnJobFn(demo.merge, tables, files["answers"], **demo.SMALL)
    return merged.rv(), [one.rv(1) for one in slices]


def map_slice(job: Job, *words: Any) -> tuple[str, tuple[str, int]]:
    *usual, gate = words
    while not os.path.exists(gate):
        time.sleep(0.05)
    table = demo.map_slice(job, *usual)
    return table, (os.uname().nodename, fetched(os.environ["TMPDIR"]))


def fetched(temporary: str) -> int:
    """How many downloads the cache of this node has counted."""
    dirs = dirs_of(os.path.join(os.path.dirname(os.path.dirname(temporary)), "jobs"))
    assert dirs is not None
    (number,) = generation_numbers(dirs)
    with closing(sqlite3.connect(database_path(dirs, number))) as con:
        return int(con.execute("SELECT value FROM properties WHERE name = 'misses'").fetchone()[0])


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--gate", required=True)
    options = parser.parse_args()
    with Toil(options) as toil:
        inputs = {"genome": "lambda_virus.fa.gz", "reads1": "reads_1.fq.gz", "reads2": "reads_2.fq.gz"}
        inputs["answers"] = "bowtie2-2.5.0.tsv.gz"
        files = {name: toil.import_file(str(demo.DATA / path)) for name, path in inputs.items()}
        told, seen = toil.start(Job.wrapJobFn(map_reads, files, 8, options.gate, **demo.SMALL))
    print([told["aligned"], told["agreeing"], told["jobs"], seen])
