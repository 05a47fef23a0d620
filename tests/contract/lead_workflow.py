"""A workflow that stops at named points until it is told to go on. Run as a script by the tests.

``PAUSE=point`` makes it write the file ``point`` and wait for the file ``go``, both in the directory
``FLAGS``.
``SIGNAL=module:Class.function`` has it send itself SIGTERM at the beginning of each call of that function.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from toilcache import Job, Toil


def pause(point: str) -> None:
    if os.environ.get("PAUSE") == point:
        flags = Path(os.environ["FLAGS"])
        (flags / point).touch()
        while not (flags / "go").exists():
            time.sleep(0.01)


def writes(job: Job, text_id: Any) -> Any:
    pause("running")
    with job.fileStore.readGlobalFileStream(text_id) as stream:
        text = stream.read()
    with job.fileStore.writeGlobalFileStream() as (stream, file_id):
        stream.write(text)
    return file_id


def signal_at(target: str) -> None:
    module, _, path = target.partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    function = getattr(owner, name)

    def signalled(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return function(*arguments, **named)

    is_static = isinstance(owner.__dict__.get(name), (staticmethod, classmethod))
    setattr(owner, name, staticmethod(signalled) if is_static else signalled)


def main() -> None:
    options = Job.Runner.getDefaultArgumentParser().parse_args()
    flags = Path(os.environ["FLAGS"])
    if "SIGNAL" in os.environ:
        signal_at(os.environ["SIGNAL"])
    with Toil(options) as toil:
        if options.restart:
            file_id = toil.restart()
        else:
            text_id = toil.import_file(str(flags / "text"), symlink=False)
            pause("imported")
            file_id = toil.start(Job.wrapJobFn(writes, text_id, cores=1, memory="10M", disk="10M"))
        pause("finished")
        toil.export_file(file_id, str(flags / "exported"))
    print("result", repr((flags / "exported").read_text(encoding="ascii")))


if __name__ == "__main__":
    main()
