"""Podman, through the socket on which it speaks Docker's protocol (``podman system service``).

Knows where that socket is. Everything else is Docker's.
"""

from __future__ import annotations

import os

from toilcache.containers.docker_engine import DockerEngine


class PodmanEngine(DockerEngine):
    """Podman's service: ``CONTAINER_HOST``, else the socket of this user's service."""

    name = "podman"

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url or os.environ.get("CONTAINER_HOST") or f"unix://{_usual_socket()}")


def _usual_socket() -> str:
    if os.geteuid() == 0:
        return "/run/podman/podman.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(runtime, "podman", "podman.sock")
