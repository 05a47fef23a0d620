"""Docker, and what speaks its protocol: containers of a daemon, through the ``docker`` SDK.

Knows the SDK and the daemon's answers. Must not know what runs in a container. The SDK is imported at first
use. The daemon is found as its own command finds it: ``DOCKER_HOST``, else the usual socket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from toilcache.containers.archive import archive_digest
from toilcache.containers.model import Container, ContainerSpec, Engine, Exit, Image
from toilcache.errors import ContainerError, ContainerImageError, EngineUnavailableError, one_line, show

ANSWER_SECONDS = 60
RETURN_SECONDS = 30.0
"""How long a daemon that went away may take to come back before a container counts as gone."""

_LOG_LINES = 1000
_ARCHIVE = "docker-archive:"


class DockerEngine(Engine):
    """The daemon of this node.

    :param url: where it listens; None: as the environment says.
    """

    name = "docker"
    is_outside = True

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._connected: Any = None

    def version(self) -> str:
        with self._asking():
            return f"{self.name} {self._client().version()['Version']}"

    @property
    def enforces(self) -> frozenset[str]:
        with self._asking():
            info = self._client().info()
        known = {"cores": "CpuCfsQuota", "memory": "MemoryLimit", "pids": "PidsLimit"}
        return frozenset(limit for limit, field in known.items() if info.get(field))

    def resolve(self, reference: str) -> Image:
        name = reference.removeprefix("docker://").removeprefix("docker-daemon:")
        if name.startswith(_ARCHIVE):
            return self._load(reference, name.removeprefix(_ARCHIVE))
        if name.endswith(".sif") or name.startswith("/"):
            raise ContainerImageError(
                f"cannot use {show(reference)} with {self.name}: it is a file of Singularity; "
                "use --container-engine singularity, or give the name of an image"
            )
        with self._asking():
            found = self._find(name)
            if found is None and not reference.startswith("docker-daemon:"):
                found = self._pull(reference, name)
        if found is None:
            raise ContainerImageError(
                f"cannot use image {show(reference)}: {self.name} has none of that name; build or load it"
            )
        return Image(reference, str(found.id), str(found.id))

    def _find(self, name: str) -> Any:
        import docker

        with suppress(docker.errors.ImageNotFound):
            return self._client().images.get(name)
        return None

    def _pull(self, reference: str, name: str) -> Any:
        """Fetch an image; the daemon itself makes one transfer of several requests for the same layers."""
        import docker

        try:
            self._client().api.pull(name if _has_tag(name) else f"{name}:latest")
        except docker.errors.APIError as error:
            raise ContainerImageError(
                f"cannot fetch image {show(reference)}: {_said(error)}; check its name and the network"
            ) from None
        return self._find(name)

    def _load(self, reference: str, path: str) -> Image:
        """Load an archive, unless the image that it says it holds is there."""
        import docker

        digest = archive_digest(path)
        with self._asking():
            found = self._find(digest)
        if found is not None:
            return Image(reference, digest, digest)
        try:
            with self._asking(), open(path, "rb") as archive:
                images = self._client().images.load(archive)
        except OSError as error:
            raise ContainerImageError(f"cannot read image {show(path)}: {error.strerror or error}") from None
        except docker.errors.APIError as error:
            raise ContainerImageError(f"cannot load image {show(path)}: {_said(error)}") from None
        return Image(reference, str(images[0].id), str(images[0].id))

    def run(self, spec: ContainerSpec) -> str:
        import docker

        spec.check()
        self._refuse_limits(spec)
        with self._asking():
            try:
                container = self._client().containers.create(**_creation(spec))
            except docker.errors.APIError as error:
                raise _not_run(spec, error) from None
            try:
                container.start()
            except docker.errors.APIError as error:
                self.remove(container.id)
                raise _not_run(spec, error) from None
            except BaseException:
                self.remove(container.id)
                raise
        return str(container.id)

    def _refuse_limits(self, spec: ContainerSpec) -> None:
        asked = {name for name in ("cores", "memory", "pids") if getattr(spec, name) is not None}
        missing = sorted(asked - self.enforces) if asked else []
        if missing:
            raise ContainerError(
                f"cannot limit {' and '.join(missing)} of {show(spec.image.reference)}: "
                f"{self.name} enforces no such limit on this node; run it without"
            )

    def wait(self, container: str, timeout: float | None = None) -> Exit | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                state = self._state(container)
                return None if state and state["Running"] else _exit(state)
            state = self._state_after(container, rest)
            if state is None or not state["Running"]:
                return _exit(state)

    def _state_after(self, container: str, seconds: float | None) -> Any:
        """Block until the daemon says that the program ended, the time is up, or the daemon goes away."""
        import docker

        with suppress(EngineUnavailableError), self._asking(), suppress(docker.errors.NotFound):
            self._client().api.wait(container, timeout=seconds)
        return self._when_back(lambda: self._state(container))

    def _when_back(self, ask: Callable[[], Any]) -> Any:
        """Ask again while the daemon is being restarted."""
        deadline = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                return ask()
            except EngineUnavailableError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)  # nothing announces the return of a daemon

    def _state(self, container: str) -> Any:
        """Return the daemon's account of a container; None if it has none."""
        import docker

        with self._asking(), suppress(docker.errors.NotFound):
            return self._client().api.inspect_container(container)["State"]
        return None

    def logs(self, container: str, limit: int) -> bytes:
        import docker

        with self._asking(), suppress(docker.errors.NotFound):
            text: bytes = self._client().api.logs(container, tail=_LOG_LINES)
            return text[-limit:]
        return b""

    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        """Follow both logs: what is attached to a container that has ended already would wait for ever."""
        import queue
        import threading

        arrived: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        for number in (1, 2):
            threading.Thread(target=self._follow, args=(container, number, arrived.put), daemon=True).start()
        followed = 2
        while followed:
            part = arrived.get()
            if part is None:
                followed -= 1
            else:
                yield part

    def _follow(self, container: str, number: int, put: Callable[[tuple[int, bytes] | None], None]) -> None:
        """Hand on one log to its end, then None; through a connection of its own.

        A log that is followed may end before a quick program's last words: what is missing is read again.
        """
        engine = type(self)(self._url)
        which = {"stdout": number == 1, "stderr": number == 2}
        had = 0
        try:
            with suppress(ContainerError), engine._asking():
                api = engine._client().api
                for part in api.logs(container, stream=True, follow=True, **which):
                    had += len(part)
                    put((number, part))
                engine.wait(container)
                for part in api.logs(container, stream=True, follow=False, **which):
                    if len(part) > had:
                        put((number, part[had:]))
                    had = max(0, had - len(part))
        finally:
            put(None)
            engine.close()

    def stop(self, container: str, grace: float) -> None:
        with self._ending(container):
            self._client().api.stop(container, timeout=max(0, round(grace)))

    def kill(self, container: str) -> None:
        with self._ending(container):
            self._client().api.kill(container)
            self._client().api.wait(container, timeout=ANSWER_SECONDS)

    @contextmanager
    def _ending(self, container: str) -> Iterator[None]:
        """Take it as done if the container has ended or is gone."""
        import docker

        with self._asking():
            try:
                yield
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # it does not run
                    raise

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._asking():
            found = self._client().api.containers(all=True, filters={"label": wanted})
        return [
            Container(
                entry["Id"],
                entry["Names"][0].removeprefix("/"),
                dict(entry["Labels"]),
                entry["State"] in ("running", "paused", "restarting"),
            )
            for entry in found
        ]

    def remove(self, container: str) -> None:
        import docker

        with self._asking():
            try:
                self._client().api.remove_container(container, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # somebody else is just removing it
                    raise
                with suppress(docker.errors.NotFound):
                    self._client().api.wait(container, timeout=ANSWER_SECONDS, condition="removed")

    def close(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def _client(self) -> Any:
        if self._connected is None:
            import docker

            self._connected = (
                docker.from_env(timeout=ANSWER_SECONDS)
                if self._url is None
                else docker.DockerClient(base_url=self._url, timeout=ANSWER_SECONDS)
            )
        return self._connected

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn an answer that does not come into an error for a person."""
        import docker
        import requests

        try:
            yield
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            where = self._url or os.environ.get("DOCKER_HOST", "its usual socket")
            if isinstance(error, docker.errors.APIError):
                raise ContainerError(f"cannot use {self.name} at {show(where)}: {_said(error)}") from None
            raise EngineUnavailableError(
                f"cannot reach {self.name} at {show(where)}: {one_line(str(error), 160)}; "
                "is it running, and may you use it?"
            ) from None


def _creation(spec: ContainerSpec) -> dict[str, Any]:
    """Return what the SDK is asked for; pure."""
    from docker.types import DeviceRequest, Mount

    uid, gid = spec.user or (os.geteuid(), os.getegid())
    limits: dict[str, Any] = {}
    if spec.cores is not None:
        limits["nano_cpus"] = round(spec.cores * 1e9)
    if spec.memory is not None:
        limits |= {"mem_limit": spec.memory, "memswap_limit": spec.memory}
    if spec.pids is not None:
        limits["pids_limit"] = spec.pids
    if spec.gpus:
        devices = [str(number) for number in spec.gpus]
        limits["device_requests"] = [DeviceRequest(device_ids=devices, capabilities=[["gpu"]])]
    return {
        "image": spec.image.handle,
        "entrypoint": [spec.argv[0]],
        "command": list(spec.argv[1:]),
        "name": spec.name,
        "labels": dict(spec.labels),
        "environment": dict(spec.environment),
        "mounts": [
            Mount(mount.target, mount.source, type="bind", read_only=mount.read_only) for mount in spec.mounts
        ],
        "tmpfs": {"/tmp": "mode=1777"},
        "user": f"{uid}:{gid}",
        "group_add": [str(group) for group in os.getgroups() if spec.user is None],
        "working_dir": spec.cwd,
        "network_mode": spec.network,
        "read_only": True,
        "init": True,
        **limits,
    }


def _exit(state: Any) -> Exit:
    return Exit(None) if state is None else Exit(int(state["ExitCode"]), bool(state["OOMKilled"]))


def _not_run(spec: ContainerSpec, error: Any) -> ContainerError:
    return ContainerError(f"cannot start a container of {show(spec.image.reference)}: {_said(error)}")


def _said(error: Any) -> str:
    return one_line(str(error.explanation or error), 300)


def _has_tag(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]
