"""How a launcher on this node reaches what it has started in a container, and proves that both see the same.

Knows directories, tokens and one socket. Must not know engines, nor what is handed over. A launcher makes a
directory below the coordination directory, with a socket that only its own user can reach, and puts a file
with a random token, locked, into each place that the container is to share. What was started inside connects,
tells the token of the coordination directory, and gets a descriptor and a message. It then reads every token
and finds every lock held: a directory that only has the same path, or a copy, shows neither. What is
read-only inside is compared by device and inode number.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
from contextlib import ExitStack

from toilcache import vfs
from toilcache.errors import CoordinationDirError, show
from toilcache.io import random_name, robust_rmtree, write_all
from toilcache.node.coordination import boot_id
from toilcache.node.locks import NO_LOCKS, LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SOCKET = "socket"
_LARGEST = 1 << 20
_TOKEN_BYTES = 64
_CREDENTIALS = 12
_ANSWER_SECONDS = 10.0


class Handover:
    """The launcher's side; close it to remove what it made.

    :param coordination: the workflow's coordination directory.
    :param shared: places that the other side can write to, each with what it is called in a message.
    :param seen: paths that it can only read.
    :raises OSError: a place cannot be written to, or a path is not there.
    """

    def __init__(self, coordination: str, shared: Iterable[tuple[str, str]], seen: Iterable[str]) -> None:
        self.directory = os.path.join(coordination, "launch-" + random_name())
        with ExitStack() as stack:
            vfs.mkdir(self.directory, 0o700)
            stack.callback(robust_rmtree, self.directory)
            token, proof = _put_proof(self.directory, stack)
            self._token = token
            self._proofs = [("coordination directory", coordination, proof, token)]
            for what, place in shared:
                token, proof = _put_proof(place, stack)
                self._proofs.append((what, place, proof, token))
            self._seen = [(path, *_inode(path)) for path in seen]
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            _at_socket(self.directory, self._socket.bind)
            self._socket.listen(1)
            self._stack = stack.pop_all()

    def fileno(self) -> int:
        """The descriptor that becomes readable when somebody connects."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """Return the connection of who has connected; None if that is a stranger."""
        connection, _ = self._socket.accept()
        connection.settimeout(_ANSWER_SECONDS)  # who connects tells the token at once
        try:
            knows = connection.recv(_TOKEN_BYTES) == self._token
        except OSError:
            knows = False
        if knows and _peer(connection) == os.geteuid():
            connection.settimeout(None)
            return connection
        connection.close()
        return None

    def give(self, descriptor: int, content: object) -> bool:
        """Hand a descriptor and a message to who has connected; False if that is a stranger."""
        connection = self.accept()
        if connection is None:
            return False
        with connection:
            message = pickle.dumps((self._proofs, self._seen, boot_id(), content), 4)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            connection.sendmsg([message], rights)
        return True

    def close(self) -> None:
        """Take the tokens away and remove the directory."""
        self._stack.close()


def take(directory: str) -> tuple[int, Any, str]:
    """Connect to the launcher; return its descriptor, its message, and what is wrong with the places, or "".

    :raises CoordinationDirError: there is no launcher at this path as it is seen here.
    """
    try:
        with reach(directory) as connection:
            room = socket.CMSG_LEN(array.array("i", [0]).itemsize)
            message, ancillary, _, _ = connection.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise CoordinationDirError(
            f"cannot reach the launcher of this container through {show(directory)}: "
            f"{(error.strerror or str(error)).lower()}; bind the coordination directory at the same path"
        ) from None
    if not message or not ancillary:
        raise CoordinationDirError(
            f"cannot use {show(directory)}: the launcher of this container takes us for a stranger; "
            "run the container as the user who started the workflow"
        )
    proofs, seen, boot, content = pickle.loads(message)
    descriptor = array.array("i", ancillary[0][2])[0]
    return descriptor, content, _fault(proofs, seen, boot)


def reach(directory: str) -> socket.socket:
    """Return a connection to the launcher, to which it is told that we know the token.

    :raises CoordinationDirError: the directory is another user's.
    :raises OSError: there is no launcher at this path as it is seen here.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if os.lstat(directory).st_uid != os.geteuid():
            raise CoordinationDirError(f"cannot use {show(directory)}: it belongs to another user")
        _at_socket(directory, connection.connect)
        connection.send(_own_token(directory))
    except BaseException:
        connection.close()
        raise
    return connection


def _fault(proofs: list[tuple[str, str, str, bytes]], seen: list[tuple[str, int, int]], boot: str) -> str:
    """Say what is not the same here as it is for the launcher; "" if all is."""
    if boot_id() != boot:
        return "cannot work here: this container runs on another node than its launcher"
    for what, place, proof, token in proofs:
        why = _why_not(proof, token)
        if why:
            return (
                f"cannot use the {what} {show(place)} in this container: {why}; "
                "bind the directory at the same path, writable"
            )
    for path, *inode in seen:
        try:
            same = _inode(path) == tuple(inode)
        except OSError:
            same = False
        if not same:
            advice = "bind it at the same path, read-only"
            return f"cannot see {show(path)} in this container as it is outside; {advice}"
    return ""


def _why_not(proof: str, token: bytes) -> str:
    try:
        with LockFile(proof, os.O_RDWR) as file:
            if os.pread(file.fd, _TOKEN_BYTES, 0) != token:
                return "what is there is something else"
            try:
                return "what is there is a copy" if file.lock(shared=True, wait=False) else ""
            except OSError as error:
                if error.errno in NO_LOCKS:  # a file system without locks: the token has to do
                    return ""
                raise
    except FileNotFoundError:
        return "it is not the one that the launcher sees"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _put_proof(place: str, stack: ExitStack) -> tuple[bytes, str]:
    """Leave a locked token in a directory until the stack is closed; return it and its path."""
    path = os.path.join(place, ".proof-" + random_name())
    token = os.urandom(_TOKEN_BYTES // 2).hex().encode()
    file = stack.enter_context(LockFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    stack.callback(file.unlink)
    write_all(file.fd, token)
    try:
        file.lock(shared=False, wait=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return token, path


def _own_token(directory: str) -> bytes:
    name = next(entry for entry in os.listdir(directory) if entry.startswith(".proof-"))
    with open(os.path.join(directory, name), "rb") as file:
        return file.read(_TOKEN_BYTES)


def _inode(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _peer(connection: socket.socket) -> int:
    """Return the user at the other end, as this user namespace calls them."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
    return array.array("I", credentials)[1]


def _at_socket(directory: str, call: Any) -> None:
    """Bind or connect in a directory whose path may be longer than the 107 bytes that an address takes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{descriptor}/{_SOCKET}")
    finally:
        os.close(descriptor)
