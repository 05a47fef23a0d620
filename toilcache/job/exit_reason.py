"""Why a job stopped, as far as the batch system can tell.

Knows the closed set of reasons only. Must not know how an adapter finds one out; what an adapter does not
understand stays None there, it never becomes a reason.
"""

from __future__ import annotations

from enum import IntEnum


class BatchJobExitReason(IntEnum):
    """Reasons for the end of an attempt (named at specification line 673)."""

    FINISHED = 1
    """Ended by itself with exit code 0, which is no evidence of a commit."""
    FAILED = 2
    """Ended by itself with another exit code."""
    LOST = 3
    """Its node, allocation or host is gone: no fault of the job's own."""
    KILLED = 4
    """Ended by somebody before it was finished."""
    ERROR = 5
    """The batch system could not run it."""
    MEMLIMIT = 6
    """Used more memory than it had asked for."""
    MISSING = 7
    """Disappeared from the batch system without evidence."""
    MAXJOBDURATION = 8
    """Ran longer than the workflow allows."""
    PARTITION = 9
    """No partition or queue could take it."""
