"""The fake Slurm as a test has it: a directory of programs for PATH, the state, and faults to come."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = Path(__file__).with_name("program.py")
NAMES = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")
NODE = {
    "P": "main*",
    "a": "up",
    "l": "infinite",
    "L": "n/a",
    "c": "2",
    "m": "1000",
    "d": "1000",
    "G": "(null)",
    "f": "(null)",
}


class Call(NamedTuple):
    """One call of a program: its name, when (seconds since 1970), its arguments, the names in its
    environment.
    """

    program: str
    at: float
    arguments: list[str]
    variables: list[str]


class FakeSlurm:
    """A cluster of one node that runs `slots` tasks at a time."""

    def __init__(self, home: Path, slots: int = 2, **settings: Any) -> None:
        self.home = home
        home.mkdir()
        programs = home / "bin"
        programs.mkdir()
        for name in NAMES:
            path = programs / name
            path.write_text(f"#!{sys.executable} -IS\n" + PROGRAM.read_text("utf-8"))
            path.chmod(0o700)
        usual = {"next": 1, "slots": slots, "tasks": {}, "min_job_age": 300.0, "max_array": 1001}
        node = NODE | {"D": "1", "T": "idle"}
        self._write("state.json", usual | {"accounting": True, "sinfo": [node]} | settings)
        self._write("faults.json", {})
        (home / "calls").touch()
        self.environment = {"SLURM_CONF": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}

    def once(self, program: str, *faults: dict[str, Any]) -> None:
        """The next calls of a program go wrong: `instead` of being carried out, with text `before` or `after`
        what it prints, `cut` after so many characters, ending with 1 and saying `stderr`."""
        faults_now = json.loads((self.home / "faults.json").read_text())
        faults_now.setdefault("once", {}).setdefault(program, []).extend(faults)
        self._write("faults.json", faults_now)

    def always(self, program: str, **fault: Any) -> None:
        """All calls of a program go wrong from now on; without a fault, none."""
        faults = json.loads((self.home / "faults.json").read_text())
        faults.setdefault("always", {})[program] = fault
        self._write("faults.json", faults)

    def calls(self, program: str) -> list[Call]:
        lines = (self.home / "calls").read_text().splitlines()
        return [call for call in (Call(*json.loads(line)) for line in lines) if call.program == program]

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "state.json").read_text())
        return found

    def tasks(self, *states: str) -> dict[str, dict[str, Any]]:
        """The tasks in these states, all without any, by ARRAY_INDEX."""
        return {
            key: task for key, task in self.state()["tasks"].items() if not states or task["state"] in states
        }

    def set_reason(self, reason: str) -> None:
        """Have all that is pending wait for this reason, as a real scheduler would find one."""
        self._change("PENDING", reason=reason)

    def set_state(self, state: str) -> None:
        """Say of all that runs that this has become of it."""
        self._change("RUNNING", state=state)

    def _change(self, of_state: str, **fields: str) -> None:
        with (self.home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            for task in state["tasks"].values():
                if task["state"] == of_state:
                    task |= fields
            self._write("state.json", state)

    def wait_idle(self) -> dict[str, dict[str, Any]]:
        """Wait until nothing waits or runs; return what still does after a minute."""
        deadline = time.monotonic() + 60
        while (left := self.tasks("PENDING", "RUNNING", "SUSPENDED")) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def run(self, *argv: str) -> None:
        """Call a program, as an administrator would."""
        import subprocess

        subprocess.run([self.home / "bin" / argv[0], *argv[1:]], env=self.environment, check=True)

    def end(self) -> None:
        """End everything: keepers die with what they keep."""
        for task in self.tasks().values():
            for pid in (task.get("pid"), task.get("keeper")):
                if pid and str(self.home) in _environ(pid):
                    os.killpg(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(self._alive()) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _alive(self) -> list[int]:
        pids = [task.get(name) for task in self.tasks().values() for name in ("pid", "keeper")]
        return [pid for pid in pids if pid and str(self.home) in _environ(pid)]

    def _write(self, name: str, content: Any) -> None:
        (self.home / name).write_text(json.dumps(content))


def _environ(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
