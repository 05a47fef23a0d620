"""Jobs in an image that their predecessor does not run in.

`python slurm_image.py STORE --image IMAGE`: the result is the versions of Python that four jobs have met.
"""

from __future__ import annotations

import sys
from typing import Any

from toilcache import Job, Toil


def version() -> str:
    return "{}.{}".format(*sys.version_info)


def spread(job: Job, image: str) -> Any:
    children = [job.addChildFn(version) for _ in range(4)]
    for child in children:
        child.image = image
    return job.addFollowOnFn(" ".join, [child.rv() for child in children]).rv()


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("--image", required=True)
    options = parser.parse_args()
    with Toil(options) as toil:
        print("result", toil.start(Job.wrapJobFn(spread, options.image)))
