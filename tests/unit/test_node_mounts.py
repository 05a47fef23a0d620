"""The kernel's table of mounts, read from real tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from toilcache.node import mounts
from toilcache.node.mounts import file_system_type, is_network_type, parse_mountinfo, type_in

TABLE = r"""22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro
25 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=8k
26 25 0:23 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw
40 22 0:41 / /home/some\040one\012x rw,relatime shared:20 - nfs4 srv:/export/home rw,vers=4.2,addr=10.0.0.1
41 22 0:42 / /scratch rw - lustre 10.0.0.2@tcp:/scratch rw,flock
42 22 0:43 /sub /mnt/b rw,noatime master:1 - btrfs /dev/sdb1 rw,subvol=/sub
43 22 0:44 / /net rw - autofs systemd-1 rw
44 43 0:45 / /net/fs rw - fuse.sshfs me@host: rw
45 41 0:46 / /scratch rw - tmpfs tmpfs rw
46 22 0:47 / /snap\134x ro - squashfs /dev/loop0 ro
this is no mount
1 2 3 - x
"""


@pytest.mark.parametrize(
    ("path", "device", "expected"),
    [
        ("/", "8:2", "ext4"),
        ("/tmp", "8:2", "ext4"),
        ("/dev/shm/x", "0:23", "tmpfs"),
        ("/home/some one\nx/dir", "0:41", "nfs4"),
        ("/home/some one\nx/dir", "9:9", "nfs4"),
        ("/home/some one\nxy", "9:9", "ext4"),
        ("/mnt/b/deep", "0:99", "btrfs"),
        ("/net/fs/x", "0:45", "fuse.sshfs"),
        ("/scratch/x", "0:99", "tmpfs"),
        ("/scratch/x", "0:42", "lustre"),
        ("/snap\\x", "0:99", "squashfs"),
    ],
)
def test_the_type_is_found_by_device_else_by_place(path: str, device: str, expected: str) -> None:
    assert type_in(parse_mountinfo(TABLE), path, device) == expected


def test_an_unknown_place_has_no_type() -> None:
    assert type_in([], "/x", "1:1") == ""


@pytest.mark.parametrize(
    "fs_type",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "9p",
        "virtiofs",
        "fuse.sshfs",
        "fuse",
    ],
)
def test_what_machines_share(fs_type: str) -> None:
    assert is_network_type(fs_type)


@pytest.mark.parametrize(
    "fs_type", ["ext4", "xfs", "tmpfs", "btrfs", "zfs", "overlay", "fuse.fuse-overlayfs", "fuseblk", ""]
)
def test_what_machines_do_not_share(fs_type: str) -> None:
    assert not is_network_type(fs_type)


def test_this_machines_own(tmp_path: Path) -> None:
    assert file_system_type("/proc") == "proc"
    assert file_system_type(str(tmp_path)) != ""
    (tmp_path / "link").symlink_to("/proc")
    assert file_system_type(str(tmp_path / "link")) == "proc"


def test_without_a_table_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", missing)
        assert mounts.read_mounts() == []
        assert file_system_type(str(tmp_path)) == ""
