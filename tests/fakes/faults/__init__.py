"""Faults at step n: kill -9, a full or broken disk; in this process, in its children, in what a test starts.

    for step in itertools.count(1):
        plan = Plan(tmp_path / f"trace-{step}", step, ENOSPC, under=store)
        with injected(plan):  # in this process ...
            operation()
        status = in_child(plan, operation)  # ... or in a forked child, which may be killed ...
        subprocess.run(argv, env=os.environ | plan.environment())  # ... or in a workflow and all it starts
        if not plan.happened:
            break

`plan.steps()` lists what was counted. Which calls are steps, and what `role`, `then`, `flag` and `under`
mean, stands at `Plan`; SQLite's statements are steps too. A plan needs a trace of its own for each try.
"""

from tests.fakes.faults.inject.fault_steps import (
    ANY,
    EIO,
    ENOSPC,
    HOST,
    KILL_AFTER,
    KILL_BEFORE,
    LEADER,
    WORKER,
    Plan,
    in_child,
    injected,
)

__all__ = [
    "ANY",
    "EIO",
    "ENOSPC",
    "HOST",
    "KILL_AFTER",
    "KILL_BEFORE",
    "LEADER",
    "WORKER",
    "Plan",
    "in_child",
    "injected",
]
