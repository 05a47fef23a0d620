"""The other half of the doctor: a process, in a container or not, that answers what it is asked.

Knows how it gets its socket: from its launcher through the directory that is named, or as a descriptor. Must
import nothing that an image may lack.
"""

from __future__ import annotations

import os
import socket
import sys

from toilcache.batch import protocol
from toilcache.doctor.probes import Probes
from toilcache.errors import CoordinationDirError
from toilcache.node.handover import take


def main(arguments: list[str]) -> int:
    """Say first what is wrong with the places, then answer until nobody asks; returns the exit status."""
    fault = ""
    if arguments[0].isdigit():
        descriptor = int(arguments[0])
    else:
        try:
            descriptor, environment, fault = take(arguments[0])
        except CoordinationDirError as error:
            print(error, file=sys.stderr)
            return 1
        os.environ.update(environment)
    probes = Probes()
    with socket.socket(fileno=descriptor) as asker:
        protocol.send(asker, fault)
        while (question := protocol.receive(asker)) is not None:
            protocol.send(asker, probes.answer(*question))
    probes.close()
    return 0
