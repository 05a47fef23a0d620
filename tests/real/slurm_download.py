"""Readers of one file on a node, the first of which stops in the middle of its download.

`python slurm_download.py STORE --diary FILE --input FILE`: the result is what all have read, put together.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from slurm_workflow import has, note

from toilcache import Job, Toil
from toilcache.job_store import originals


def read(job: Job, number: int, file_id: str, diary: str) -> str:
    # One task of an array has the array's number for SLURM_JOB_ID, which would mean all of them.
    task = "_".join(os.environ[f"SLURM_ARRAY_{part}_ID"] for part in ("JOB", "TASK"))
    note(diary, "begin", number, task)
    if number == 0:
        _be_slow(diary)
    while number and not has(diary, "fetching"):
        time.sleep(0.05)
    text = Path(job.fileStore.readGlobalFile(file_id)).read_text()
    note(diary, "end", number)
    return text


def _be_slow(diary: str) -> None:
    """Have the download of this process stop in its middle until the diary says so."""
    usual = originals.hand_out

    def slowly(path: str, target: str, *more: Any, **named: Any) -> Any:
        Path(target).write_text("the half")
        note(diary, "fetching")
        while not has(diary, "go"):
            time.sleep(0.05)
        Path(target).unlink()
        return usual(path, target, *more, **named)

    originals.hand_out = slowly


def spread(job: Job, file_id: str, diary: str) -> Any:
    return job.addFollowOnFn(
        "".join, [job.addChildJobFn(read, n, file_id, diary).rv() for n in range(3)]
    ).rv()


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--diary", required=True)
    parser.add_argument("--input", required=True)
    options = parser.parse_args()
    with Toil(options) as toil:
        file_id = toil.import_file(options.input)
        print("result", toil.start(Job.wrapJobFn(spread, file_id, options.diary)))
