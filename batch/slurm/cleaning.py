"""Cleaning nodes on which no host is left to do it: one short job each, pinned to its node.

Knows how such a job is made and how long it is waited for. A node that is down is named to the person; the
next worker of this workflow there, or `toilcache node-cleanup`, cleans it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from toilcache.batch.slurm import commands
from toilcache.batch.slurm.client import SlurmClient, SlurmError
from toilcache.batch.slurm.commands import Placement
from toilcache.job_store.work import Work

logger = logging.getLogger(__name__)

CLEAN_SECONDS = 10.0


def clean_nodes(
    client: SlurmClient,
    placement: Placement,
    nodes: Sequence[str],
    worker: Callable[..., list[str]],
    work: Work,
) -> None:
    """Clean these nodes; what is not done in ten seconds is cancelled and said.

    :param worker: makes the argv of a worker's program from its verb, queue and further words.
    """
    waiting = set()
    for node in nodes:
        argv = commands.sbatch_cleaning(placement, node, client.name, work.output(f"clean-{node}"))
        try:
            client.submit(argv, commands.batch_script(worker("clean", "-", f"clean-{node.lower()}")))
            waiting.add(node)
        except SlurmError as error:
            logger.warning("cannot clean node %s: %s", node, error.text)
    deadline = time.monotonic() + CLEAN_SECONDS
    while waiting and time.monotonic() < deadline:
        waiting = {node for node in waiting if not work.read_log(f"clean-{node.lower()}", 0)[0]}
        time.sleep(0.05)
    if not waiting:
        return
    try:
        client.cancel_all()
    except SlurmError as error:
        logger.warning("%s", error)
    logger.warning(
        "cannot clean %s now: no job starts there; it is cleaned by the next worker of this workflow there, "
        "or by: toilcache node-cleanup",
        ", ".join(sorted(waiting)),
    )
