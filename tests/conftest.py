"""What holds for every test: the machine's own settings stay outside, and what did not run is said.

Tests of real engines and schedulers carry the mark ``real``. They run under TESTBED=1 only, where the machine
is expected to bring everything up: there any skipped test is a failure. `make test` deals the tests out to a
few processes; those that share what takes long to bring up, or what the machine has once, stay in one.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from tests.testbed.fixtures import SHARED, engines

__all__ = ["engines"]  # a fixture of every test below

TESTBED = os.environ.get("TESTBED") == "1"
OWN_TEMP = pytest.StashKey[str]()
OPEN = pytest.StashKey[Any]()
DESELECTED = "deselected"
CACHE = Path(__file__).resolve().parent.parent / ".cache"

# The same examples on every run, and no time limit: a slow machine is not a fault.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide the person's own configuration from the tests and from every process they start."""
    home = CACHE / "home" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HOME": str(home), "HYPOTHESIS_STORAGE_DIRECTORY": str(CACHE / "hypothesis")}
    os.environ.pop("XDG_CONFIG_HOME", None)
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[OWN_TEMP] = tempfile.mkdtemp(prefix="toilcache-tests-")
    for name in [name for name in os.environ if name.startswith("TOILCACHE_")]:
        del os.environ[name]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the temporary directory, unless a person may want to look at what failed.

    By rm, not by pytest: tests make directories too deep for a function that calls itself.
    """
    place = session.config.stash.get(OWN_TEMP, None)
    if place is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        subprocess.run(["rm", "-rf", "--", place], check=False)


@pytest.fixture(autouse=True)
def engine_logger() -> Iterator[None]:
    """Give the engine's logger back as it was: a workflow opened in a test directs it elsewhere for good."""
    logger = logging.getLogger("toilcache")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def own_descriptors(request: pytest.FixtureRequest) -> None:
    """Take down what is open before a test begins, but after what it shares with others was set up."""
    request.node.stash[OPEN] = descriptors().keys()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """See that a test has closed what it has opened, when nothing of it is left.

    The names that a process keeps until it ends are given up here, and what only the garbage collector closes
    is collected: a test that leaves such makes it run.
    """
    yield
    identity = sys.modules.get("toilcache.node.identity")
    for directory in list(identity._by_real_path) if identity else ():
        identity.release_process_name(directory)
    item.funcargs.clear()  # type: ignore[attr-defined]
    before = item.stash.get(OPEN, None)
    if before is None or descriptors().keys() <= before:
        return
    gc.collect()
    left = {number: path for number, path in descriptors().items() if number not in before | SHARED}
    mark = item.get_closest_marker("descriptors")
    assert len(left) <= (mark.args[0] if mark else 0), f"left open by the test: {left}"


def descriptors() -> dict[int, str]:
    """Tell which descriptors this process has, and what they are open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory just read
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def missing_for_real_tests() -> str | None:
    """Say what keeps the tests of real engines from running here; None if nothing does."""
    if not TESTBED:
        return "real engines are brought up under TESTBED=1 only"
    if os.geteuid() != 0:
        return "TESTBED=1 needs root"
    if not Path("/etc/debian_version").exists():
        return "TESTBED=1 needs Debian"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of real engines where there are none."""
    reason = missing_for_real_tests()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(pytest.mark.skip(reason=reason))


def group_of(nodeid: str) -> str:
    """Name what one process has to run: the cluster's tests, those of the engines, or a single test."""
    if "/real/test_slurm" in nodeid:
        return "slurm"
    return "engines" if "/real/" in nodeid or "[real" in nodeid else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out by these groups; pytest-xdist's own way to say so is lost on newer pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_deselected(items: list[pytest.Item]) -> None:
    """Let the process that reports know what the others leave out; each of them collects the same."""
    output = getattr(items[0].config, "workeroutput", None)
    if output is not None:
        output[DESELECTED] = output.get(DESELECTED, 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what one process has left out for what all have."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    count = getattr(node, "workeroutput", {}).get(DESELECTED, 0)
    reporter.stats.setdefault(DESELECTED, [])[:] = [SimpleNamespace()] * count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test a failure under TESTBED=1: full disks and memory limits are real things too.

    What a failure holds on to, its traceback keeps open: of that nothing is said.
    """
    report = yield
    if report.failed:
        item.stash[OPEN] = None
    if TESTBED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a test was skipped under TESTBED=1: {skip_reason(report)}"
    return report


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Give the reason of a skipped test without its place."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return text.removeprefix("Skipped: ")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say, as the last lines before pytest's own, which tests did not run and why."""
    place = config.stash.get(OWN_TEMP, None)
    if place is not None and os.path.isdir(place):
        terminalreporter.write_line(f"kept for a look: {place}")
    left_out: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        left_out[skip_reason(report)] += 1
    deselected = len(terminalreporter.stats.get(DESELECTED, []))
    if deselected:
        left_out[f"left out by -m {config.option.markexpr!r} or -k {config.option.keyword!r}"] = deselected
    for reason, count in sorted(left_out.items()):
        terminalreporter.write_line(f"did not run: {count} test{'s' if count > 1 else ''} ({reason})")
    if not left_out:
        terminalreporter.write_line("did not run: nothing was skipped")
