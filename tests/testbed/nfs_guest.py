"""A real NFS client: the kernel of a small virtual machine, which mounts directories of this one by NFSv4.2.

The server is nfs-ganesha, on the loopback device and a port of its own. The machine is qemu, emulated, with
Debian's kernel for clouds and a busybox; programs, Python, its packages and the source are this machine's,
served read-only at the same paths. Nothing of it can be reached from elsewhere, and what is sent goes to this
machine only. By hand, as root on Debian:
`python -m tests.testbed.nfs_guest [COMMAND...]` runs a command in it, the NFS mount being /mnt.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.testbed.slurm_cluster import APT_LOCK

CACHE = Path(os.environ.get("TESTBED_CACHE", "/var/cache/toilcache-testbed")) / "nfs"
PACKAGES = ("qemu-system-x86", "nfs-ganesha", "nfs-ganesha-vfs", "busybox-static", "kmod")
MODULES = ("virtio_pci", "virtio_net", "nfsv4", "virtio-rng")
SOURCE = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
MARK = "toilcache-guest ended with "
APT = ("flock", APT_LOCK, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600")
SHELL = "/bin/busybox"
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""What a program begins with that is to end with us, however we end."""

Export = tuple[Path, Path, str]
"""What is served: the directory, its place in the guest, ro or rw."""

_SERVER = """
NFS_CORE_PARAM {{
    Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = "{state}"; Only_Numeric_Owners = true; }}
EXPORT_DEFAULTS {{ SecType = sys; Protocols = 4; Transports = TCP; Squash = No_Root_Squash; }}
"""
_EXPORT = """
EXPORT {{
    Export_Id = {number}; Path = "{path}"; Pseudo = "/{number}"; Access_Type = {access};
    FSAL {{ Name = VFS; }}
}}
"""

_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in {modules}; do modprobe $module || echo no module $module; done
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
serve() {{
    mkdir -p "/root$2"
    mount -t nfs4 -o $3,addr=10.0.2.2,clientaddr=10.0.2.15,vers=4.2,proto=tcp,port={port},sec=sys,hard \\
        "10.0.2.2:/$1" "/root$2" || echo "cannot mount $2"
}}
{mounts}
cd /root; ln -s usr/bin usr/sbin usr/lib usr/lib64 .
mkdir -p proc sys dev etc tmp var/tmp run; chmod 1777 tmp var/tmp
echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group
mount --bind /proc proc; mount --bind /sys sys; mount --bind /dev dev
mkdir -p dev/shm; mount -t tmpfs shm dev/shm; ln -s /proc/self/fd /dev/fd
grep nfs4 /proc/mounts | tail -n 1
chroot /root /bin/sh -c {command}
echo "{mark}$?"
sync; poweroff -f
"""

_MACHINE = (
    *("-nodefaults", "-no-user-config", "-accel", "tcg", "-smp", "1", "-m", "2048", "-display", "none"),
    *("-append", "console=ttyS0 quiet panic=-1", "-no-reboot", "-device", "virtio-rng-pci"),
    *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
)


def run(argv: Sequence[str | Path], **more: object) -> None:
    """Run a program; what it printed is in the error if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}")


def prepare() -> Path:
    """Install what is needed, once per machine; return the directory of the kernel and its modules."""
    query = ["dpkg-query", "-W", "-f", "${Status}\n", *PACKAGES]
    status = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    if status.count("install ok installed") < len(PACKAGES):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run([*APT, "update"])
        run([*APT, "install", "-y", "--no-install-recommends", *PACKAGES], env=environment)
    kernel = CACHE / "kernel"
    if not kernel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            name = _kernel_package()
            run([*APT, "download", name], cwd=place)
            run(["dpkg-deb", "-x", *Path(place).glob("*.deb"), "new"], cwd=place)
            (version,) = os.listdir(f"{place}/new/lib/modules")
            run(["depmod", "-b", f"{place}/new", "-a", version])
            with contextlib.suppress(OSError):  # another one was faster
                os.rename(f"{place}/new", kernel)
    return kernel


def _kernel_package() -> str:
    """The package that Debian's kernel for clouds is in now."""
    argv = ["apt-cache", "depends", "linux-image-cloud-amd64"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return next(word for word in text.split() if word.startswith("linux-image-") and word[12].isdigit())


def initramfs(
    place: Path, kernel: Path, port: int, exports: Sequence[Export], command: Sequence[str]
) -> Path:
    """Make the file system that the guest begins in: busybox, modules, what to do."""
    root = place / "initramfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(SHELL, root / "bin/busybox")
    shutil.copytree(kernel / "lib/modules", root / "lib/modules", ignore=_unneeded(kernel))
    lines = [
        shlex.join(["serve", str(number), str(where), access])
        for number, (_, where, access) in enumerate(exports, 1)
    ]
    text = _INIT.format(
        modules=" ".join(MODULES),
        port=port,
        mounts="\n".join(lines),
        mark=MARK,
        command=shlex.quote(f"exec {shlex.join(command)}"),
    )
    (root / "init").write_text(text)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    image = place / "initramfs.cpio"
    with image.open("wb") as out:
        argv = [SHELL, "cpio", "-o", "-H", "newc"]
        subprocess.run(
            argv, input=names.encode(), stdout=out, stderr=subprocess.DEVNULL, cwd=root, check=True
        )
    return image


def _unneeded(kernel: Path) -> Callable[[str, list[str]], list[str]]:
    """What of the modules is left out: all that those we load do not need."""
    (table,) = kernel.glob("lib/modules/*/modules.dep")
    lines = [line.split() for line in table.read_text().splitlines()]
    wanted = {
        Path(path).name for words in lines for path in words if Path(words[0].rstrip(":")).stem in MODULES
    }
    needed = {name.rstrip(":") for name in wanted}
    return lambda _, names: [name for name in names if name.endswith(".ko") and name not in needed]


@contextlib.contextmanager
def server(place: Path, exports: Sequence[Export]) -> Iterator[int]:
    """Serve directories of this machine to itself; yields the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "state").mkdir()
    config = place / "ganesha.conf"
    text = _SERVER.format(port=port, state=place / "state")
    for number, (path, _, access) in enumerate(exports, 1):
        text += _EXPORT.format(number=number, path=path, access=access.upper())
    config.write_text(text)
    argv = [
        *WITH_US,
        "ganesha.nfsd",
        "-F",
        "-f",
        config,
        "-L",
        place / "ganesha.log",
        "-p",
        place / "ganesha.pid",
    ]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        _await(port, process, place / "ganesha.log")
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(
                f"the server did not come up: {log.read_text()[-2000:] if log.exists() else ''}"
            )
        time.sleep(0.05)


def _seen() -> list[Path]:
    """What the guest sees of this machine, read-only: programs, this Python and its packages, the source.

    Nothing with a secret in it: whoever is on this machine can reach the server meanwhile.
    """
    paths = {Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), SOURCE}
    return sorted(path for path in paths if not any(other in path.parents for other in paths))


def guest(command: Sequence[str], shared: Path, patience: float) -> tuple[int, str]:
    """Run a command in the guest, with `shared` at /mnt; return its exit status and what it printed."""
    kernel = prepare()
    (vmlinuz,) = kernel.glob("boot/vmlinuz-*")
    with tempfile.TemporaryDirectory(prefix="toilcache-nfs-") as temporary:
        place = Path(temporary)
        exports = [*((path, path, "ro") for path in _seen()), (shared, Path("/mnt"), "rw")]
        with server(place, exports) as port:
            image = initramfs(place, kernel, port, exports, command)
            argv = [*WITH_US, "qemu-system-x86_64", *_MACHINE, "-kernel", vmlinuz, "-initrd", image]
            argv += ["-serial", f"file:{place}/console"]
            try:
                done = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False
                )
                said = done.stderr
            except subprocess.TimeoutExpired:
                said = b"it did not end in time"
            text = ((place / "console").read_bytes() + said).decode(errors="replace").replace("\r\n", "\n")
    before, mark, status = text.rpartition(MARK)
    return (int(status.split()[0]), before) if mark else (-1, text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="toilcache-nfs-shared-") as directory:
        status, text = guest(
            sys.argv[1:] or ["/bin/mount"], Path(directory), float(os.environ.get("PATIENCE", "3600"))
        )
    print(text)
    sys.exit(status)
