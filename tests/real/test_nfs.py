"""The suite of job stores with its stores on a real NFS mount: a kernel's client, caching and all."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.testbed.nfs_guest import SOURCE, guest

PATIENCE = 7200.0
SUITE = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.glob("tests/contract/test_job_store_*.py"))
KIND = "not memory and not nfs"
"""Stores in a directory; the others are in memory, or have the habits of NFS for themselves."""
ENVIRONMENT = (
    *("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/mnt", "LANG=C.UTF-8"),
    *("PYTHONDONTWRITEBYTECODE=1", "HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis"),
)


@pytest.mark.real
@pytest.mark.soak
def test_the_suite_of_job_stores_on_a_real_nfs_client(tmp_path: Path) -> None:
    options = ["-o", "cache_dir=/tmp/cache", "-q", "--color=no", "--basetemp=/mnt/tests", "-k", KIND]
    run = [sys.executable, "-m", "pytest", *options]
    command = ["env", "-C", str(SOURCE), "-i", *ENVIRONMENT, *run, *SUITE]
    status, text = guest(command, tmp_path, PATIENCE)
    print(text[-20_000:])
    assert re.search(r"^10\.0\.2\.2:/\d+ /root/mnt nfs4 rw,.*vers=4\.2", text, re.MULTILINE)
    assert status == 0
    (passed,) = re.findall(r"^(\d+) passed", text, re.MULTILINE)
    assert int(passed) > 250
