"""A fake Docker daemon: the protocol of the real one over a Unix socket, without containers.

A container is a program on this machine, with the variables that it was given; its shim, a shell, writes the
exit status down, so that programs outlive the daemon as they do with the real one. A container's processes
are known by a marker in their environment, and end with its first. All state lies in the directory that the
daemon is started over: another one goes on with it. It ends when its standard input does.

Faults come from the file FAULTS in that directory, a word per line: `full` (no container can be created: the
disk is full) and `no-limits` (it cannot enforce any). There is no registry: no image can be pulled. Who makes
a file `oom` in a container's directory has the daemon say that memory ran out in it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

IMAGE = "fake:1"
DIGEST = "sha256:" + "0f" * 32
MARKER = "FAKE_DOCKER_CONTAINER"
SHIM = '"$@" >"$0/stdout" 2>"$0/stderr"; echo $? >"$0/exit.part"; mv "$0/exit.part" "$0/exit"'
KILLED = 137


class Refused(Exception):
    """An answer with a status that is not success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Box:
    """One container in its directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.id = place.name
        self.asked: dict[str, Any] = json.loads((place / "asked").read_text())
        self.over = threading.Event()
        if (place / "pid").exists():
            self._attend()

    @property
    def running(self) -> bool:
        return (self.place / "pid").exists() and not self.over.is_set()

    def state(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            return {
                "Running": self.running,
                "ExitCode": int((self.place / "exit").read_text()),
                "OOMKilled": (self.place / "oom").exists(),
            }
        return {"Running": self.running, "ExitCode": KILLED * self.over.is_set(), "OOMKilled": False}

    def start(self, path: str) -> None:
        """Run the program; `path` is where the image's programs are."""
        argv = [*self.asked["Entrypoint"], *(self.asked["Cmd"] or [])]
        given = [f"PATH={path}", *self.asked["Env"], f"{MARKER}={self.id}"]
        user = self.asked["User"].split(":")
        become = (
            [] if int(user[0]) == os.geteuid() else ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}"]
        )
        shim = subprocess.Popen(
            ["sh", "-c", SHIM, str(self.place), *become, "env", "-i", *given, *argv],
            cwd=self.asked["WorkingDir"] or "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (self.place / "pid").write_text(str(shim.pid))
        self._attend()

    def _attend(self) -> None:
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        while self._shim_lives():
            time.sleep(0.01)
        self.signal(signal.SIGKILL)
        self.over.set()

    def _shim_lives(self) -> bool:
        pid = int((self.place / "pid").read_text())
        with suppress(ChildProcessError):  # an earlier daemon's
            return os.waitpid(pid, os.WNOHANG)[0] == 0
        with suppress(OSError):
            return self.id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def pids(self) -> list[int]:
        """The processes inside."""
        return marked(self.id)

    def signal(self, number: int) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        while self.running:
            self.signal(signal.SIGKILL)
            self.over.wait(0.02)


def marked(container: str) -> list[int]:
    """The processes of a container."""
    found = []
    entry = f"{MARKER}={container}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if entry in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


class Daemon:
    """What the requests do."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.lock = threading.Lock()
        (place / "containers").mkdir(exist_ok=True)
        self.boxes = {found.name: Box(found) for found in (place / "containers").iterdir()}

    def faults(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self.place / "FAULTS").read_text().split()
        return []

    def box(self, name: str) -> Box:
        for box in self.boxes.values():
            if name in (box.id, box.asked["name"]):
                return box
        raise Refused(404, f"No such container: {name}")

    def version(self, query: Any, body: Any) -> Any:
        return {"Version": "20.10.0", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}

    def info(self, query: Any, body: Any) -> Any:
        able = "no-limits" not in self.faults()
        return {"CpuCfsQuota": able, "MemoryLimit": able, "PidsLimit": able}

    def image(self, name: str) -> Any:
        if name not in (IMAGE, DIGEST):
            raise Refused(404, f"No such image: {name}")
        return {"Id": DIGEST, "RepoTags": [IMAGE]}

    def pull(self, query: Any, body: Any) -> Any:
        raise Refused(500, f"Get https://registry/v2/{query['fromImage']}/: no such host")

    def create(self, query: Any, body: Any) -> Any:
        if "full" in self.faults():
            raise Refused(500, "failed to create container: no space left on device")
        self.image(body["Image"])
        for mount in body["HostConfig"].get("Mounts") or []:
            if not os.path.lexists(mount["Source"]):
                raise Refused(
                    400, f"invalid mount config: bind source path does not exist: {mount['Source']}"
                )
        with self.lock:
            if any(box.asked["name"] == query["name"] for box in self.boxes.values()):
                raise Refused(409, f"Conflict. The container name {query['name']} is already in use")
            place = self.place / "containers" / secrets.token_hex(32)
            place.mkdir()
            (place / "asked").write_text(json.dumps({**body, "name": query["name"]}))
            self.boxes[place.name] = Box(place)
        return {"Id": place.name, "Warnings": []}

    def start(self, box: Box, query: Any) -> Any:
        box.start(f"{self.place}/inside:/usr/local/bin:/usr/bin:/bin")

    def inspect(self, box: Box, query: Any) -> Any:
        config = {"Tty": False, "Labels": box.asked["Labels"]}
        driver = {"LogConfig": {"Type": "json-file"}}
        return {
            "Id": box.id,
            "Name": box.asked["name"],
            "State": box.state(),
            "Config": config,
            "HostConfig": driver,
        }

    def wait(self, box: Box, query: Any) -> Any:
        while query.get("condition") == "removed" and box.place.exists():
            time.sleep(0.01)
        box.over.wait()
        return {"StatusCode": box.state()["ExitCode"]}

    def logs(self, box: Box, query: Any) -> Any:
        if query.get("follow") == "1":
            box.over.wait()
        frames = b""
        for number, name in ((1, "stdout"), (2, "stderr")):
            if query.get(name) == "1":
                with suppress(FileNotFoundError):
                    text = (box.place / name).read_bytes()
                    frames += struct.pack(">BxxxL", number, len(text)) + text if text else b""
        return frames

    def kill(self, box: Box, query: Any) -> Any:
        if not box.running:
            raise Refused(409, f"Container {box.id} is not running")
        box.kill()

    def stop(self, box: Box, query: Any) -> Any:
        box.signal(signal.SIGTERM)
        if not box.over.wait(int(query.get("t", "10"))):
            box.kill()

    def remove(self, box: Box, query: Any) -> Any:
        box.kill()
        with self.lock:
            self.boxes.pop(box.id, None)
        shutil.rmtree(box.place, ignore_errors=True)

    def list(self, query: Any, body: Any) -> Any:
        wanted = json.loads(query.get("filters", "{}")).get("label", [])
        return [
            {
                "Id": box.id,
                "Names": ["/" + box.asked["name"]],
                "Labels": box.asked["Labels"],
                "State": "running" if box.running else "exited",
            }
            for box in list(self.boxes.values())
            if all(
                f"{name}={value}" in wanted
                for name, value in box.asked["Labels"].items()
                if name in str(wanted)
            )
            and all(word.partition("=")[0] in box.asked["Labels"] for word in wanted)
        ]


class Handler(BaseHTTPRequestHandler):
    """One request of the protocol."""

    protocol_version = "HTTP/1.1"
    daemon: Daemon

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "a socket"

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        words = [unquote(word) for word in url.path.split("/")[1:]]
        words = words[1:] if words[0].startswith("v1.") else words
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        status = 200
        try:
            answer = self._call(words, query, body)
        except Refused as error:
            status, answer = error.status, {"message": str(error)}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        with suppress(OSError):  # who asked may be gone
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _call(self, words: list[str], query: dict[str, str], body: Any) -> Any:
        daemon = self.daemon
        whole: dict[str, Callable[[Any, Any], Any]] = {
            "version": daemon.version,
            "info": daemon.info,
            "images/create": daemon.pull,
            "containers/create": daemon.create,
            "containers/json": daemon.list,
        }
        if (call := whole.get("/".join(words))) is not None:
            return call(query, body)
        if words[0] == "images":
            return daemon.image("/".join(words[1:-1]))
        box = daemon.box(words[1])
        if self.command == "DELETE":
            return daemon.remove(box, query)
        verb = {"json": "inspect"}.get(words[2], words[2])
        return getattr(daemon, verb)(box, query)

    do_GET = do_POST = do_DELETE = _answer


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    place = Path(sys.argv[1])
    Handler.daemon = Daemon(place)
    with suppress(FileNotFoundError):
        (place / "docker.sock").unlink()
    server = Server(str(place / "docker.sock"), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("READY", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
