"""A real Slurm cluster of four nodes on one Debian machine, as root, and all of it gone again.

A node is a set of namespaces with a host name, an address and local disks of its own; a bridge in a network
namespace joins the nodes and the host, on which the controller runs. By hand:
`python -m tests.testbed.slurm_cluster up [BASE]`, then `node-down n2`, `node-up n2`, `cut n2`, `heal n2`,
`exec n2 ARGV...`, `down`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.testbed import slurm_conf

BASE = Path("/srv/toilcache-slurm")
NODES = ("n1", "n2", "n3", "n4")
USERS = {"tcalice": 5101, "tcbob": 5102}
APT_LOCK = "/run/toilcache-testbed-apt"
"""For whoever here calls apt-get: that waits for another's packages, but not for another's lists."""

LOCAL = ("/tmp", "/var/tmp", "/dev/shm")
PACKAGES = ("slurmd", "slurmctld", "slurm-client", "slurm-wlm-basic-plugins", "munge", "iproute2")
ACCOUNTING_PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
SWITCH, UPLINK = "tcs-switch", "tcs-host"
PATIENCE = 60.0
HERE = Path(__file__).resolve().parent


def shell(*argv: str | Path, check: bool = True, **more: object) -> str:
    """Run a program; return what it printed. What it says on standard error is in the exception."""
    done = subprocess.run(argv, text=True, capture_output=True, **more)  # type: ignore[call-overload]
    if check and done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def wait_for(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """A zombie is not alive: the first process of this machine may reap late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """Send a signal and see the process end; kill it after five seconds."""
    for wanted in (number, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, wanted)
        with contextlib.suppress(TimeoutError):
            return wait_for(lambda: not is_alive(pid), f"the end of {pid}", 5.0)
    return None


class SlurmCluster:
    """A cluster below one directory, which is not below any that the nodes have for themselves."""

    def __init__(
        self, base: Path = BASE, *, accounting: bool = True, extra: str = "", keep: Sequence[str] = ()
    ) -> None:
        """`extra` is added to slurm.conf; `keep` are directories of the host that stay visible in nodes."""
        self.base = base
        self.shared = base / "shared"
        self.nodes = NODES
        self._keep = keep
        cgroups = Path("/sys/fs/cgroup/freezer").is_dir()
        self.layout = slurm_conf.Layout(str(base), NODES, accounting, cgroups, os.uname().nodename, extra)

    # For those who use it

    @property
    def environment(self) -> dict[str, str]:
        """What clients need."""
        return {"SLURM_CONF": str(self.base / "etc/slurm.conf"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def run(self, *argv: str | Path, check: bool = True) -> str:
        """Run a client of Slurm as root on the host."""
        return shell(*argv, check=check, env=self.environment)

    def in_node(self, node: str, *argv: str | Path, check: bool = True) -> str:
        """Run a program inside a node."""
        enter = ("nsenter", "-t", str(self.first_process(node)), "-m", "-u", "-i", "-n", "-p", "--")
        return shell(*enter, *argv, check=check, env=self.environment)

    def user(self, name: str = "tcalice") -> dict[str, object]:
        """Arguments that make `subprocess` run something as a test user on the host."""
        entry = pwd.getpwnam(name)
        environment = self.environment | {
            "HOME": entry.pw_dir,
            "USER": name,
            "LOGNAME": name,
            "LANG": "C.UTF-8",
        }
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "env": environment}

    def processes(self, user: str = "tcalice") -> list[str]:
        """The processes of a user, in all nodes and on the host, by their command lines."""
        uid = pwd.getpwnam(user).pw_uid
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == uid and is_alive(int(entry.name)):
                    found.append(
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
        return found

    def jobs(self) -> list[str]:
        """The jobs that wait, run or end, one line each."""
        return self.run("squeue", "-h", "-r", "-o", "%i %j %T %N").splitlines()

    def wait_idle(self) -> None:
        """Wait until there is no job and every node is free."""
        wait_for(lambda: not self.jobs(), "the end of all jobs")
        self._wait_nodes()

    # Power and network

    def node_down(self, node: str) -> None:
        """Cut the power: everything in the node ends at once, nothing is written any more."""
        for name in (f"{node}.pid", f"{node}.unshare"):
            pid = self._pid(name)
            if pid is not None:
                end(pid, signal.SIGKILL)
        for path in (self.base / "run").glob(f"{node}.*"):
            path.unlink()
        shell("ip", "-n", SWITCH, "link", "del", f"tcs-{node}", check=False)
        shell("ip", "netns", "del", f"tcs-{node}", check=False)

    def node_up(self, node: str) -> None:
        """Boot a node; it has lost what was in its local directories."""
        self.node_down(node)
        space = f"tcs-{node}"
        (self.base / "spool" / node).mkdir(parents=True, exist_ok=True)
        shell("ip", "netns", "add", space)
        shell("ip", "-n", space, "link", "set", "lo", "up")
        shell(
            "ip",
            "link",
            "add",
            space,
            "netns",
            SWITCH,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        shell("ip", "-n", SWITCH, "link", "set", space, "master", "bridge", "up")
        shell("ip", "-n", space, "addr", "add", f"{slurm_conf.address(node)}/24", "dev", "eth0")
        shell("ip", "-n", space, "link", "set", "eth0", "up")
        shell("ip", "-n", space, "route", "add", "default", "via", slurm_conf.CONTROLLER)
        argv = [
            "nsenter",
            f"--net=/run/netns/{space}",
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
        ]
        argv += [
            "--kill-child=KILL",
            "--mount-proc",
            str(HERE / "slurm_node.sh"),
            node,
            str(self.base),
            *self._keep,
        ]
        self._start(argv, f"{node}.unshare", self.base / "log" / f"node-{node}.log")
        ready = self.base / "run" / f"{node}.ready"
        wait_for(ready.exists, f"node {node}")
        self._note(f"{node}.pid", self.first_process(node))

    def cut(self, node: str) -> None:
        """Part the node from the network. The shared directory is no network file system: it stays."""
        shell("ip", "-n", SWITCH, "link", "set", f"tcs-{node}", "down")

    def heal(self, node: str) -> None:
        """Join the node to the network again."""
        shell("ip", "-n", SWITCH, "link", "set", f"tcs-{node}", "up")

    def stop_controller(self) -> None:
        self._end_daemon("slurmctld")

    def start_controller(self) -> None:
        self.run("slurmctld", "-f", self.base / "etc/slurm.conf")
        wait_for(lambda: "is UP" in self.run("scontrol", "ping", check=False), "slurmctld")

    def stop_database(self) -> None:
        """Have slurmdbd gone, as when its machine is down: sacct fails."""
        self._end_daemon("slurmdbd")

    def start_database(self) -> None:
        shell("slurmdbd", env=self.environment | {"SLURM_CONF": str(self.base / "etc/slurmdbd.conf")})
        wait_for(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd")

    # Up and down

    def up(self) -> SlurmCluster:
        """Bring everything up; what an earlier one left below the same directory is removed first."""
        self.down()
        install(*PACKAGES, *(ACCOUNTING_PACKAGES if self.layout.accounting else ()))
        for name in (
            "etc",
            "run/kept",
            "log",
            "spool",
            "state",
            "mysql",
            "munge",
            "dev",
            "local",
            "shared/home",
        ):
            (self.base / name).mkdir(parents=True)
        for name in ("", "shared", "log"):
            (self.base / name).chmod(0o1777 if name == "log" else 0o755)
        self._make_users()
        self._write_configuration()
        self._join_host()
        self._start_munge()
        if self.layout.accounting:
            self._start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.node_up(node)
        self._wait_nodes()
        return self

    def _thaw(self) -> None:
        """Let go of what Slurm has suspended: what is frozen does not even die."""
        for node in self.nodes:
            for state in Path("/sys/fs/cgroup/freezer").glob(f"slurm_{node}/**/freezer.state"):
                with contextlib.suppress(OSError):
                    state.write_text("THAWED")

    def down(self) -> None:
        """Leave nothing: no process, namespace, link, user or file."""
        self._thaw()
        for user, uid in USERS.items():
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and entry.stat().st_uid == uid:
                        os.kill(int(entry.name), signal.SIGKILL)
            if f"\n{user}:" in Path("/etc/passwd").read_text() and pwd.getpwnam(user).pw_uid == uid:
                wait_for(lambda uid=uid: not self._has_processes(uid), f"the end of what {user} runs")
                shell("userdel", user)
            remove_left_by(uid)
        for node in self.nodes:
            self.node_down(node)
        for daemon in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end_daemon(daemon)
        shell("ip", "link", "del", UPLINK, check=False)
        shell("ip", "netns", "del", SWITCH, check=False)
        for node in self.nodes:
            for top in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
                for directory in sorted(top.glob("**/"), key=lambda path: len(path.parts), reverse=True):
                    with contextlib.suppress(OSError):
                        directory.rmdir()
        for place in ("/tmp", "/var/tmp", "/dev/shm"):  # of the host, which is a login node
            for path in Path(place).glob("toilcache-*"):
                if path.lstat().st_uid in USERS.values():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.base, ignore_errors=True)

    def _make_users(self) -> None:
        for user, uid in USERS.items():
            home = self.shared / "home" / user
            shell("useradd", "--uid", str(uid), "--user-group", "--create-home", "--home-dir", home, user)
            home.chmod(0o755)

    def _write_configuration(self) -> None:
        etc = self.base / "etc"
        for index in range(4):
            device = self.base / "dev" / f"gpu{index}"
            os.mknod(device, 0o20666, os.makedev(1, 3))  # like /dev/null
        (etc / "hosts").write_text(slurm_conf.hosts(self.layout))
        (etc / "slurm.conf").write_text(slurm_conf.slurm_conf(self.layout))
        (etc / "gres.conf").write_text(slurm_conf.gres_conf(self.layout))
        (etc / "cgroup.conf").write_text(slurm_conf.CGROUP_CONF if self.layout.cgroups else "")

    def _join_host(self) -> None:
        shell("ip", "netns", "add", SWITCH)
        shell("ip", "-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        shell("ip", "-n", SWITCH, "link", "set", "bridge", "up")
        shell("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", "host", "netns", SWITCH)
        shell("ip", "-n", SWITCH, "link", "set", "host", "master", "bridge", "up")
        shell("ip", "addr", "add", f"{slurm_conf.CONTROLLER}/24", "dev", UPLINK)
        shell("ip", "link", "set", UPLINK, "up")

    def _start_munge(self) -> None:
        """A munged of our own: its socket and key are the cluster's."""
        place = self.base / "munge"
        (place / "key").write_bytes(os.urandom(128))
        (place / "key").chmod(0o400)
        for path in (place, place / "key"):
            shutil.chown(path, "munge", "munge")
        argv = [
            "setpriv",
            "--reuid=munge",
            "--regid=munge",
            "--init-groups",
            "munged",
            "--foreground",
            "--force",
        ]
        argv += [f"--socket={place}/socket", f"--key-file={place}/key", f"--pid-file={place}/pid"]
        argv += [f"--log-file={place}/log", f"--seed-file={place}/seed", "--num-threads=4"]
        self._start(argv, "munged.pid", self.base / "log/munged.log")
        wait_for((place / "socket").exists, "munged")

    def _start_accounting(self) -> None:
        data, etc = self.base / "mysql", self.base / "etc"
        shutil.chown(data, "mysql", "mysql")
        (etc / "my.cnf").write_text(slurm_conf.mariadb_conf(self.layout))
        (etc / "slurmdbd.conf").write_text(slurm_conf.slurmdbd_conf(self.layout))
        (etc / "slurmdbd.conf").chmod(0o600)
        usual = ("--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db")
        shell("mariadb-install-db", *usual, "--auth-root-authentication-method=normal")
        server = ["mariadbd", f"--defaults-file={etc}/my.cnf", "--user=mysql"]
        self._start(server, "mariadbd.pid", self.base / "log/mariadbd.log")
        client = ("--no-defaults", "-S", str(data / "socket"))
        wait_for(lambda: self._answers("mariadb-admin", *client, "ping"), "mariadbd")
        shell("mariadb", *client, "-e", slurm_conf.DATABASE_USER)
        self.start_database()
        for entity in (["cluster", "toilcachetests"], ["account", "proj"]):
            self.run("sacctmgr", "-i", "add", *entity)
        self.run("sacctmgr", "-i", "add", "user", ",".join(["root", *USERS]), "Account=proj")

    # Processes

    def _start(self, argv: list[str], note: str, log: Path) -> None:
        """Start a daemon in a session of its own and note its pid."""
        environment = {name: value for name, value in os.environ.items() if name != "TOILCACHE_WORKFLOW"}
        with open(log, "ab") as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=environment | self.environment,
            )
        process.returncode = 0  # it outlives us; nobody is to be warned of that
        self._note(note, process.pid)

    def first_process(self, node: str) -> int:
        """The PID 1 of a node as the host sees it: the only child of its `unshare`."""
        parent = self._pid(f"{node}.unshare")
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0])

    def _note(self, name: str, pid: int) -> None:
        (self.base / "run" / name).write_text(f"{pid}\n")

    def pid_of(self, daemon: str) -> int:
        """The process of a daemon, as the host sees it."""
        path = self.base / "run" / f"{daemon}.pid"
        if daemon.startswith("slurmd-"):  # it notes the pid that it has in its node
            return next(self._children(self.first_process(daemon.partition("-")[2]), "slurmd"))
        return int(path.read_text())

    def _children(self, pid: int, name: str) -> Iterator[int]:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                yield int(child)

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.base / "run" / name).read_text())
        except (OSError, ValueError):
            return None

    def _end_daemon(self, daemon: str) -> None:
        pid = self._pid(f"{daemon}.pid")
        if pid is not None:
            end(pid)
            (self.base / "run" / f"{daemon}.pid").unlink(missing_ok=True)

    def _has_processes(self, uid: int) -> bool:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == uid and is_alive(int(entry.name)):
                    return True
        return False

    def _answers(self, *argv: str) -> bool:
        return subprocess.run(argv, capture_output=True, env=self.environment).returncode == 0

    def _wait_nodes(self) -> None:
        def free() -> bool:
            states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).split()
            return states.count("idle") == len(self.nodes)

        wait_for(free, "all nodes to be idle")


def remove_left_by(uid: int, places: Sequence[str] = LOCAL) -> None:
    """Remove what workflows of a test user have left on the host: an interrupted run cleans nothing."""
    with contextlib.suppress(KeyError):
        if pwd.getpwuid(uid).pw_name not in USERS:
            return  # the machine has a user of its own by that number
    for path in (path for place in places for path in Path(place).glob("toilcache-*")):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_uid == uid:
                shell("rm", "-rf", "--one-file-system", "--", path)


def install(*packages: str) -> None:
    """Install what is missing, once; Debian only."""
    query = shell("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages, check=False)
    missing = set(packages) - {line.split()[0] for line in query.splitlines() if line.endswith(" installed")}
    if not missing:
        return
    apt = ("flock", APT_LOCK, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=600")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    shell(*apt, "update", env=environment)
    shell(*apt, "install", "-y", "--no-install-recommends", *sorted(missing), env=environment)


def main(arguments: list[str]) -> int:
    verbs = ("up", "down", "node-up", "node-down", "cut", "heal", "exec")
    if not arguments or arguments[0] not in verbs:
        print(__doc__, file=sys.stderr)
        return 2
    verb, *rest = arguments
    cluster = SlurmCluster(accounting="--no-accounting" not in rest)
    if verb == "up":
        cluster.up()
        print(f"export SLURM_CONF={cluster.base}/etc/slurm.conf")
    elif verb == "down":
        cluster.down()
    elif verb == "exec":
        print(cluster.in_node(rest[0], *rest[1:]), end="")
    else:
        {
            "node-up": cluster.node_up,
            "node-down": cluster.node_down,
            "cut": cluster.cut,
            "heal": cluster.heal,
        }[verb](rest[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
