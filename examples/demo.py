#!/usr/bin/env python3
"""Map 10,000 read pairs to the genome of phage lambda as a workflow, and compare with Bowtie 2.

    python examples/demo.py                     # temporary job store, removed at the end
    python examples/demo.py --jobStore ./store --output mapped.tsv

One job indexes the genome and leaves the index as a global file. Many jobs read that file and map a slice of
the reads each. A follow-on joins their tables. This script knows the workflow; `mapper.py` knows the mapping.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mapper import (
    agreeing,
    aligned,
    build_index,
    load_index,
    map_pair,
    read_genome,
    read_pairs,
    read_table,
    save_index,
    table_rows,
)

from toilcache import Job, Toil

DATA = Path(__file__).resolve().parent / "data"
SMALL = {"cores": 1, "memory": "256 MiB", "disk": "64 MiB"}
INPUTS = ("genome", "reads1", "reads2", "answers")
OTHER_JOBS = 3  # besides the mapping jobs: the root, the index, the merge


def map_reads(job: Job, files: dict[str, str], parts: int) -> Any:
    """Root: lay out the workflow; the answer is the promise of what `merge` returns."""
    index = job.addChildJobFn(index_genome, files["genome"], **SMALL)
    inputs = index.rv(), files["reads1"], files["reads2"]
    tables = [index.addChildJobFn(map_slice, *inputs, part, parts, **SMALL) for part in range(parts)]
    merged = index.addFollowOnJobFn(merge, [table.rv() for table in tables], files["answers"], **SMALL)
    return merged.rv()


def index_genome(job: Job, genome: str) -> str:
    """Write the index of the genome as a global file that every mapping job reads."""
    index = build_index(read_genome(job.fileStore.readGlobalFile(genome)))
    path = job.fileStore.getLocalTempFile()
    with open(path, "wb") as stream:
        save_index(index, stream)
    return job.fileStore.writeGlobalFile(path)


def map_slice(job: Job, index_file: str, reads1: str, reads2: str, part: int, parts: int) -> str:
    """Map every `parts`-th read pair, from number `part` on, and write a table of positions."""
    with open(job.fileStore.readGlobalFile(index_file), "rb") as stream:
        index = load_index(stream)
    first, second = (job.fileStore.readGlobalFile(reads) for reads in (reads1, reads2))
    pairs = read_pairs(first, second, part, parts)
    rows = [table_rows(pair.name, map_pair(index, pair.first, pair.second)) for pair in pairs]
    return _write_table(job, rows)


def merge(job: Job, tables: list[str], answers: str) -> dict[str, Any]:
    """Join the tables of the mapping jobs and count what is aligned and what agrees with the answers."""
    rows = []
    for table in tables:
        with open(job.fileStore.readGlobalFile(table), encoding="ascii") as lines:
            rows += lines.readlines()
    merged = _write_table(job, rows)
    ours = read_table(job.fileStore.readGlobalFile(merged))
    theirs = read_table(job.fileStore.readGlobalFile(answers))
    return {
        "aligned": aligned(ours),
        "mates": len(ours),
        "agreeing": agreeing(ours, theirs),
        "jobs": len(tables) + OTHER_JOBS,
        "table": merged,
    }


def _write_table(job: Job, rows: list[str]) -> str:
    path = job.fileStore.getLocalTempFile()
    with open(path, "w", encoding="ascii") as stream:
        stream.writelines(rows)
    return job.fileStore.writeGlobalFile(path)


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The engine's own options and those of this script."""
    parser = Job.Runner.getDefaultArgumentParser(jobstore_as_flag=True)
    parser.description = "Map read pairs to a small genome and compare with Bowtie 2."
    group = parser.add_argument_group("demo")
    group.add_argument("--genome", default=str(DATA / "lambda_virus.fa.gz"), help="FASTA file of a sequence")
    group.add_argument("--reads1", default=str(DATA / "reads_1.fq.gz"), help="FASTQ file of the first mates")
    group.add_argument("--reads2", default=str(DATA / "reads_2.fq.gz"), help="FASTQ file of the second mates")
    group.add_argument("--answers", default=str(DATA / "bowtie2-2.5.0.tsv.gz"), help="table to compare with")
    group.add_argument("--parts", type=int, default=16, help="number of mapping jobs (default: 16)")
    group.add_argument("--output", metavar="FILE", help="write the table of positions to FILE")
    options: argparse.Namespace = parser.parse_args(argv)
    if options.parts < 1:
        parser.error(f"cannot map in {options.parts} parts; give 1 or more")
    if options.restart and options.jobStore is None:
        parser.error("cannot restart a temporary job store; name the store with --jobStore")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the workflow in its job store, by default one that lives only as long."""
    with ExitStack() as stack:
        if options.jobStore is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="toilcache-demo-"))
            options.jobStore = os.path.join(directory, "store")
        toil = stack.enter_context(Toil(options))
        result: dict[str, Any]
        if options.restart:
            result = toil.restart()
        else:
            files = {name: toil.import_file(getattr(options, name)) for name in INPUTS}
            result = toil.start(Job.wrapJobFn(map_reads, files, options.parts, **SMALL))
        if options.output:
            toil.export_file(result["table"], os.path.abspath(options.output))
    return result


def main() -> None:
    """Run, and say in one line how it went."""
    started = time.monotonic()
    result = run(parse_options())
    print(
        f"aligned {result['aligned']} of {result['mates']} mates; "
        f"{result['agreeing']} within 10 bases of bowtie2; "
        f"{result['jobs']} jobs in {time.monotonic() - started:.1f} s"
    )


if __name__ == "__main__":
    main()
