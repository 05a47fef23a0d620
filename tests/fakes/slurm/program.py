"""A Slurm in one file: `sbatch`, `squeue`, `sacct`, `scancel`, `scontrol`, `sinfo` and `sacctmgr` by the name
it has.

The state is a file in the directory that SLURM_CONF names, changed under a lock; there is no daemon. Jobs
really run, as processes of a session each, as many at a time as there are slots; a keeper waits for each,
notes its end and starts the next. What is to go wrong stands in `faults.json`, and every call is noted in
`calls`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

HERE = os.environ["SLURM_CONF"]
ALIVE = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED")


@contextmanager
def state():
    """The state, for changing; written when the block ends."""
    with open(os.path.join(HERE, "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = os.path.join(HERE, "state.json")
        with open(path) as file:
            content = json.load(file)
        yield content
        with open(path + ".new", "w") as file:
            json.dump(content, file)
        os.rename(path + ".new", path)


def take_fault(program: str) -> dict:
    """The faults of a program: those under its name hold on, those in its list are used up one by one."""
    path = os.path.join(HERE, "faults.json")
    with open(os.path.join(HERE, "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path) as file:
            faults = json.load(file)
        found = dict(faults.get("always", {}).get(program, {}))
        queue = faults.get("once", {}).get(program, [])
        if queue:
            found.update(queue.pop(0))
            with open(path, "w") as file:
                json.dump(faults, file)
    return found


def value(arguments: list, name: str, default: str = "") -> str:
    """The value of a long option."""
    return next((word.partition("=")[2] for word in arguments if word.startswith(f"--{name}=")), default)


# Jobs


def start_waiting(content: dict) -> None:
    """Start what waits while there are free slots, oldest first."""
    running = sum(
        task["state"] in ("RUNNING", "COMPLETING", "SUSPENDED") for task in content["tasks"].values()
    )
    waiting = [
        key for key, task in content["tasks"].items() if task["state"] == "PENDING" and not task["held"]
    ]
    waiting.sort(key=lambda key: (content["tasks"][key]["job"], content["tasks"][key]["index"]))
    for key in waiting[: max(0, content["slots"] - running)]:
        task = content["tasks"][key]
        task.update(state="RUNNING", reason="None", node="fake1", life=task["life"] + 1)
        keeper = [sys.executable, "-I", "-S", __file__, "keep", key, str(task["life"])]
        process = subprocess.Popen(
            keeper,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=task["environ"] | {"SLURM_CONF": HERE},
        )
        task["keeper"] = process.pid


def keep(key: str, life: str) -> None:
    """Run a task to its end and note how it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with state() as content:
        task = dict(content["tasks"][key])
    environ = task["environ"] | {
        "SLURM_JOB_ID": str(task["id"]),
        "SLURM_ARRAY_JOB_ID": str(task["job"]),
        "SLURM_ARRAY_TASK_ID": str(task["index"]),
        "SLURM_RESTART_COUNT": str(int(life) - 1),
        "SLURM_CONF": HERE,
    }
    output = task["output"].replace("%A", str(task["job"])).replace("%a", str(task["index"]))
    status = 0x35
    reason = "NonZeroExitCode"
    try:
        with open(output, "ab") as stream:
            process = subprocess.Popen(
                [task["script"]],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=environ,
                cwd="/",
                preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
            )
            with state() as content:
                content["tasks"][key]["pid"] = process.pid
            status = process.wait()
    except OSError:
        reason = "JobLaunchFailure"
    with state() as content:
        task = content["tasks"].get(key)
        if task is not None and task["life"] == int(life) and task["state"] != "PENDING":
            if task["state"] not in ("CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED"):
                task["state"] = "FAILED" if status else "COMPLETED"
                task["reason"] = reason if status else "None"
            task.update(ended=time.time(), exit=status)
        start_waiting(content)


def kill(task: dict, number: int) -> None:
    if task.get("pid"):
        with suppress(ProcessLookupError):
            os.killpg(task["pid"], number)


def purge(content: dict) -> None:
    """Forget what has ended for longer than MinJobAge."""
    limit = content["min_job_age"]
    content["tasks"] = {
        key: task
        for key, task in content["tasks"].items()
        if task["state"] in ALIVE or time.time() - (task["ended"] or time.time()) < limit
    }


# Programs


def sbatch(arguments: list) -> str:
    script = sys.stdin.buffer.read()
    if value(arguments, "partition") not in ("", "main", "short"):
        raise SystemExit(
            "sbatch: error: invalid partition specified: " + value(arguments, "partition") + "\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified"
        )
    first, last = map(int, value(arguments, "array", "0-0").split("-"))
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SLURM_")}
    with state() as content:
        if last - first >= content["max_array"]:
            raise SystemExit("sbatch: error: Batch job submission failed: Invalid job array specification")
        job = content["next"]
        path = os.path.join(HERE, f"script-{job}")
        with open(path, "wb") as file:
            file.write(script)
        os.chmod(path, 0o700)
        for index in range(first, last + 1):
            content["tasks"][f"{job}_{index}"] = {
                **{
                    "job": job,
                    "index": index,
                    "id": content["next"],
                    "state": "PENDING",
                    "reason": "Resources",
                },
                **{"name": value(arguments, "job-name"), "comment": value(arguments, "comment"), "node": ""},
                **{"script": path, "output": value(arguments, "output"), "environ": environ, "life": 0},
                **{"held": False, "ended": None, "exit": 0, "pid": None},
            }
            content["next"] += 1
        start_waiting(content)
    return f"{job}\n" if "--parsable" in arguments else f"Submitted batch job {job}\n"


def squeue(arguments: list) -> str:
    form = value(arguments, "format")
    with state() as content:
        purge(content)
        tasks = [task for task in content["tasks"].values() if task["name"] == value(arguments, "name")]
        shown = content.get("shown", {})
    if "--states=all" not in arguments:
        tasks = [task for task in tasks if task["state"] in ALIVE]
    lines = []
    waiting: dict = {}
    for task in tasks:
        if task["state"] == "PENDING":
            waiting.setdefault(task["job"], []).append(task)
        else:
            lines.append(filled(form, task, str(task["index"]), shown))
    for group in waiting.values():
        indices = ",".join(str(task["index"]) for task in group)
        lines.append(filled(form, group[0], f"[{indices}]" if len(group) > 1 else indices, shown))
    return "".join(lines)


def shown_as(form: str, fields: dict) -> str:
    return re.sub("%([A-Za-z])", lambda match: str(fields[match[1]]), form)


def filled(form: str, task: dict, indices: str, shown: dict) -> str:
    fields = {
        **{"F": task["job"], "K": indices, "T": shown.get(task["state"], task["state"]), "r": task["reason"]},
        **{"N": task["node"], "k": task["comment"] or "(null)", "A": task["id"], "j": task["name"]},
    }
    return shown_as(form, fields) + "\n"


def sacct(arguments: list) -> str:
    with state() as content:
        if not content["accounting"]:
            return ""
        tasks = [task for task in content["tasks"].values() if task["name"] == value(arguments, "name")]
    rows = [f"{task['job']}_{task['index']}|{task['state']}|0:0|{task['node']}\n" for task in tasks]
    return "".join(rows)


def scancel(arguments: list) -> str:
    wanted, ids = value(arguments, "state"), [word for word in arguments if not word.startswith("-")]
    victims = []
    with state() as content:
        for key, task in content["tasks"].items():
            named = key in ids or str(task["job"]) in ids if ids else task["name"] == value(arguments, "name")
            if named and task["state"] in ALIVE and wanted in ("", task["state"]):
                if task["state"] == "PENDING":
                    task["ended"] = time.time()
                task["state"] = "CANCELLED"
                victims.append(task)
    for task in victims:
        kill(task, signal.SIGTERM)
    deadline = time.time() + 2
    while time.time() < deadline and any(is_alive(task["pid"]) for task in victims):
        time.sleep(0.02)
    for task in victims:
        kill(task, signal.SIGKILL)
    return ""


def is_alive(pid: int | None) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def scontrol(arguments: list) -> str:
    if arguments[:2] == ["show", "config"]:
        with state() as content:
            return f"MaxArraySize            = {content['max_array']}\nMaxJobCount             = 10000\n"
    verb, key = arguments
    with state() as content:
        task = content["tasks"][key]
        if verb == "suspend":
            kill(task, signal.SIGSTOP)
            task["state"] = "SUSPENDED"
        elif verb == "resume":
            kill(task, signal.SIGCONT)
            task["state"] = "RUNNING"
        elif verb == "requeue":  # the first life may go on for a while, as behind a broken network
            if not content.get("requeue_spares"):
                kill(task, signal.SIGKILL)
            task.update(state="PENDING", reason="BeginTime", node="")
            start_waiting(content)
    return ""


def sinfo(arguments: list) -> str:
    form = value(arguments, "format")
    with state() as content:
        fields = content["sinfo"]
    return "".join(shown_as(form, row) + "\n" for row in fields)


def sacctmgr(arguments: list) -> str:
    return "proj|\n"


PROGRAMS = {
    program.__name__: program for program in (sbatch, squeue, sacct, scancel, scontrol, sinfo, sacctmgr)
}


def main() -> None:
    name = os.path.basename(sys.argv[0])
    if sys.argv[1:2] == ["keep"]:
        keep(*sys.argv[2:])
        return
    with open(os.path.join(HERE, "calls"), "a") as calls:
        calls.write(json.dumps([name, time.time(), sys.argv[1:], sorted(os.environ)]) + "\n")
    fault = take_fault(name)
    text = ""
    if "instead" not in fault:
        text = PROGRAMS[name](sys.argv[1:])
    text = fault.get("before", "") + text + fault.get("after", "")
    sys.stdout.write(text[: fault.get("cut", len(text))])
    sys.stdout.flush()
    if "stderr" in fault:
        sys.exit(fault["stderr"])


if __name__ == "__main__":
    main()
