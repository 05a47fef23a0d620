"""An examination: directories are made as a workflow makes them, both halves asked, and all of it removed.

Knows what is asked, and in which order. Must not know what an answer means, nor who reads the findings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import NamedTuple, TypeVar

from toilcache.batch.container_plan import HostContainer
from toilcache.config import Config
from toilcache.containers.engines import make_engine
from toilcache.containers.model import STORE_LABEL, WORKFLOW_LABEL
from toilcache.doctor import verdicts
from toilcache.doctor.halves import Far, Near, beside_us, in_container
from toilcache.doctor.probes import distance
from toilcache.doctor.verdicts import Finding
from toilcache.errors import (
    CoordinationDirError,
    ToilcacheError,
    show,
)
from toilcache.io import random_name
from toilcache.job_store.file_job_store import FileJobStore
from toilcache.job_store.liveness import note_of
from toilcache.node.coordination import NodeDirs, node_dirs
from toilcache.node.places import ROOM_NEEDED
from toilcache.node.remains import cleanup
from toilcache.removal import robust_rmtree

_FILLED = 1 << 20
_ROWS = 200
Made = TypeVar("Made")


class Places(NamedTuple):
    """Where a workflow of these settings would be; ``disk`` is what a job there needs."""

    dirs: NodeDirs
    store: str | None
    disk: int

    @property
    def all(self) -> list[tuple[str, str, int]]:
        """What each place is called, our directory there, and the room that it needs."""
        found = [("coordination directory", self.dirs.coordination, ROOM_NEEDED)]
        found.append(("work directory", self.dirs.work, self.disk))
        return found if self.store is None else [*found, ("job store", self.store, ROOM_NEEDED)]


def examine(config: Config) -> Generator[Finding, None, None]:
    """Yield findings as they come up; whatever was made for them is gone at the end."""
    with ExitStack() as stack:
        store = yield from _made("job store", lambda: _store(config, stack))
        dirs = yield from _made("directories", lambda: _node(config, store, stack))
        able = yield from _engine(config)
        if dirs is None:
            return
        places = Places(dirs, store, config.defaultDisk)
        near = Near()
        stack.callback(near.close)
        if able and config.container is not None:
            other = in_container(_boxed(config, places), dirs)
            yield from _ask_both(places, near, other, boxed=True)
        else:
            wanted = config.container is not None and config.containerEngine != "none"
            yield verdicts.no_container(wanted=wanted)
            yield from _ask_both(places, near, beside_us(), boxed=False)


def _made(topic: str, make: Callable[[], Made]) -> Generator[Finding, None, Made | None]:
    """Return what was made, or None where it cannot be."""
    try:
        made = make()
    except ToilcacheError as error:
        yield verdicts.of_error(topic, error)
        return None
    if made is not None:
        yield verdicts.fine(topic, "can be made")
    return made


def _store(config: Config, stack: ExitStack) -> str | None:
    """Make a job store where that of a workflow is or will be, and remove it with the stack."""
    if config.jobStore is None:
        return None
    path = FileJobStore(config.jobStore).path
    place = os.path.realpath(path if os.path.isdir(path) else os.path.dirname(path))
    store = FileJobStore(os.path.join(place, f".toilcache-doctor-{random_name()}"))
    try:
        store.initialize(Config())
    finally:
        if os.path.lexists(store.path):
            stack.callback(robust_rmtree, store.path)
    return store.path


def _node(config: Config, store: str | None, stack: ExitStack) -> NodeDirs:
    """Make the directories of a workflow that has no jobs, and remove them with the stack."""
    workflow_id = f"doctor-{random_name()}"
    dirs = node_dirs(workflow_id, config.workDir, config.coordinationDir, create=False)
    stack.callback(cleanup, workflow_id, config.workDir, config.coordinationDir)
    try:
        # For who finds them if we are killed: a workflow that nobody leads.
        stack.enter_context(dirs.hold(about=note_of(store or dirs.home)))
    except OSError as error:
        raise CoordinationDirError(
            f"cannot use {show(error.filename or dirs.work)}: {(error.strerror or str(error)).lower()}; "
            "make it usable, or choose another place with --coordinationDir and --workDir"
        ) from error
    return dirs


def _engine(config: Config) -> Generator[Finding, None, bool]:
    """Look at engine and image; returns whether containers can be started."""
    if config.containerEngine == "none":
        yield verdicts.fine("engine", "none is wanted")
        return False
    try:
        engine = make_engine(config.containerEngine, config.imageCache)
    except ToilcacheError as error:
        if config.containerEngine == "auto":
            yield verdicts.no_engine(error, wanted=config.container is not None)
        else:
            yield verdicts.of_error("engine", error)
        return False
    try:
        yield verdicts.fine("engine", engine.version())
        if config.container is not None:
            yield verdicts.image(engine.resolve(config.container))
        return True
    except ToilcacheError as error:
        yield verdicts.of_error("image", error)
        return False
    finally:
        engine.close()


def _boxed(config: Config, places: Places) -> HostContainer:
    dirs = places.dirs
    stores = (places.store,) if places.store is not None else ()
    return HostContainer(
        engine=config.containerEngine,
        image_cache=config.imageCache,
        image=config.container,
        stores=stores,
        node=(dirs.workflow_id, os.path.dirname(dirs.work), os.path.dirname(dirs.coordination)),
        labels={WORKFLOW_LABEL: dirs.workflow_id, STORE_LABEL: next(iter(stores), dirs.work)},
    )


def _ask_both(
    places: Places, near: Near, start: AbstractContextManager[Far], *, boxed: bool
) -> Iterator[Finding]:
    with ExitStack() as stack:
        try:
            far = stack.enter_context(start)
            if boxed:
                yield verdicts.container(far.ask("look"))
                yield verdicts.same_paths(far.fault)
            if not far.fault:
                yield from _users(places, near, far)
                yield _locks(places, near, far)
                yield _sqlite(places, near, far)
                yield from _file_systems(places, near, far)
                yield from _space(places, near, far)
                yield from _clocks(places, near, far)
        except (ToilcacheError, OSError) as error:
            yield verdicts.of_error("container" if boxed else "directories", error)


def _users(places: Places, near: Near, far: Far) -> Iterator[Finding]:
    theirs, ours = (os.path.join(places.dirs.work, name) for name in ("made-inside", "made-outside"))
    made = far.ask("make", theirs)
    seen = made if "error" in made else near.ask("read", theirs)
    near.ask("make", ours)
    yield from verdicts.users(near.ask("look"), far.ask("look"), seen, far.ask("read", ours))


def _locks(places: Places, near: Near, far: Far) -> Finding:
    path = os.path.join(places.dirs.coordination, "doctor.lock")
    base = os.path.dirname(places.dirs.coordination)
    tries = {}
    for holder, other, holds, lets_go in (
        (near, far, "while we hold it", "after we let go"),
        (far, near, "while the other holds it", "after the other let go"),
    ):
        held = holder.ask("hold", path)
        if "error" in held:
            return verdicts.locks(base, {holds: held})
        tries[holds] = other.ask("is_free", path)
        holder.ask("let_go", path)
        tries[lets_go] = other.ask("is_free", path)
    return verdicts.locks(base, tries)


def _sqlite(places: Places, near: Near, far: Far) -> Finding:
    """Both add rows at once, then each counts all of them."""
    path = os.path.join(places.dirs.coordination, "doctor.db")
    answers = [near.ask("open_database", path), far.ask("open_database", path)]
    if not any("error" in answer for answer in answers):
        far.begin("add_rows", path, _ROWS, 2 * _ROWS)
        answers.append(near.ask("add_rows", path, 0, _ROWS))
        answers.append(far.finish())
    if not any("error" in answer for answer in answers):
        answers += [near.ask("count_rows", path), far.ask("count_rows", path)]
    return verdicts.sqlite(os.path.dirname(places.dirs.coordination), answers, 2 * _ROWS)


def _file_systems(places: Places, near: Near, far: Far) -> Iterator[Finding]:
    for what, place, _ in places.all:
        outside, inside = near.ask("place", place), far.ask("place", place)
        local = place == places.dirs.coordination
        yield verdicts.file_system(what, os.path.dirname(place), outside, inside, local=local)


def _space(places: Places, near: Near, far: Far) -> Iterator[Finding]:
    temporary = os.path.join(far.ask("look")["temporary"], "")
    for what, place, needed in [*places.all, ("temporary directory", temporary, _FILLED)]:
        seen, filled = far.ask("place", place), far.ask("fill", place, _FILLED)
        yield verdicts.space(what, os.path.dirname(place), seen, filled, needed)


def _clocks(places: Places, near: Near, far: Far) -> Iterator[Finding]:
    before = near.ask("look")["clock"]
    inside = far.ask("look")["clock"]
    yield verdicts.clock("the other process", distance(inside, before, near.ask("look")["clock"]))
    for what, place, _ in places.all:
        filled = near.ask("fill", place, 0)
        with suppress(KeyError):  # it takes no file: that has been said
            yield verdicts.clock(f"the {what}'s file system", filled["skew"])
