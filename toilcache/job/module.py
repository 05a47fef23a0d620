"""How code is named so that another process finds the same functions and classes.

Knows modules, files and import paths. A script run as the main program has no name that a worker could
import, so its contents are named under `MAIN_NAME` in every process. Must not know jobs or pickling.
"""

from __future__ import annotations

import os
import sys
from collections import namedtuple
from functools import lru_cache

from toilcache.errors import JobException, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NamedTuple

    class _Descriptor(NamedTuple):
        dirPath: str
        name: str
        fromVirtualEnv: bool = False
        script: str = ""
else:
    _Descriptor = namedtuple("_Descriptor", "dirPath name fromVirtualEnv script", defaults=(False, ""))

MAIN_NAME = "__toilcache_main__"
"""The name under which the contents of the main script are pickled."""

_replaced_mains: list[Any] = []
_loading: list[str] = []


class ModuleDescriptor(_Descriptor):
    """Where a module is: the directory to put on the import path, and its dotted name.

    For the main script `script` is its file name in that directory and the name is `MAIN_NAME`.
    """

    __slots__ = ()

    @classmethod
    def forModule(cls, name: str) -> ModuleDescriptor:
        """Describe a loaded module; JobException where it is not loaded or no file."""
        if name in ("__main__", MAIN_NAME):
            return cls._for_main()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if not file:
            raise JobException(
                f"cannot find the file of module {name!r}; jobs need code that stands in a file"
            )
        directory = os.path.dirname(os.path.abspath(file))
        levels = name.count(".") + (os.path.basename(file).startswith("__init__."))
        for _ in range(levels):
            directory = os.path.dirname(directory)
        return cls(directory, name, _is_installed(directory))

    @classmethod
    def _for_main(cls) -> ModuleDescriptor:
        name = main_import_name()
        main: Any = sys.modules["__main__"]
        if name is None or getattr(main, "__file__", None) is None:
            raise JobException("cannot find the main program's file; jobs need code that stands in a file")
        directory, script = os.path.split(os.path.abspath(main.__file__))
        if name == MAIN_NAME:
            sys.modules.setdefault(MAIN_NAME, main)
            return cls(directory, MAIN_NAME, False, script)
        for _ in range(name.count(".")):
            directory = os.path.dirname(directory)
        return cls(directory, name, _is_installed(directory))

    def load(self) -> ModuleType:
        """Import the module, its directory first on the import path; ImportError where that fails."""
        if self.script:
            return load_main(self)
        loaded = sys.modules.get(self.name)
        if loaded is not None:
            return loaded
        if self.dirPath not in sys.path and not self.fromVirtualEnv:
            sys.path.insert(0, self.dirPath)
        __import__(self.name)
        return sys.modules[self.name]


_is_file = lru_cache(maxsize=16)(os.path.isfile)


def _is_installed(directory: str) -> bool:
    parts = directory.split(os.sep)
    return "site-packages" in parts or "dist-packages" in parts or directory == os.path.dirname(os.__file__)


def main_import_name() -> str | None:
    """The name by which another process can import the main program; None where it has neither name nor file.

    `python -m pkg.mod` gives "pkg.mod", a script gives `MAIN_NAME`.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return MAIN_NAME if file and _is_file(file) else None


def main_object(module: str, qualname: str) -> Any:
    """Find what the main program of the leader defines under that name.

    Raises JobException where the module is not the main program here and was not loaded.
    """
    owner = _main_module(module)
    value: Any = owner
    try:
        for part in qualname.split("."):
            value = getattr(value, part)
    except AttributeError:
        where = getattr(owner, "__file__", module)
        raise JobException(
            f"cannot find {qualname!r} in {show(where)}; did the script change since the start?"
        ) from None
    return value


def _main_module(module: str) -> Any:
    if module in sys.modules:
        return sys.modules[module]
    main = sys.modules.get("__main__")
    if main is not None and main_import_name() == module:
        return main
    if module == MAIN_NAME:
        raise JobException("cannot find the workflow's script in this process: it was not loaded")
    __import__(module)
    return sys.modules[module]


def load_main(descriptor: ModuleDescriptor) -> ModuleType:
    """Run the script's file as module `MAIN_NAME`, so that its main guard stays closed, and return it.

    The module also takes the place of `__main__`, for the sake of data that the user's code pickled itself.
    JobException where the file cannot be read; what the script itself raises is passed on.
    """
    if MAIN_NAME in sys.modules:
        return sys.modules[MAIN_NAME]
    path = os.path.join(descriptor.dirPath, descriptor.script)
    module = _module_for(path)
    code = compile(_source(path), path, "exec", dont_inherit=True)
    if descriptor.dirPath not in sys.path:
        sys.path.insert(0, descriptor.dirPath)
    sys.modules[MAIN_NAME] = module
    _loading.append(path)
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[MAIN_NAME]
        raise
    finally:
        _loading.remove(path)
    # The old main module stays referenced: its functions are still running.
    _replaced_mains.append(sys.modules.get("__main__"))
    sys.modules["__main__"] = module
    return module


def _source(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise JobException(
            f"cannot load the workflow's script {show(path)}: {error.strerror}; "
            "is its directory visible on this node?"
        ) from error


def _module_for(path: str) -> ModuleType:
    from importlib.machinery import ModuleSpec, SourceFileLoader

    module = type(sys)(MAIN_NAME)
    loader = SourceFileLoader(MAIN_NAME, path)
    module.__spec__ = ModuleSpec(MAIN_NAME, loader, origin=path)
    module.__loader__ = loader
    module.__file__ = path
    return module


def is_loading_main() -> bool:
    """Tell whether a worker is just running the script: a workflow begun now lacks the main guard."""
    return bool(_loading)


def refuse_in_workers() -> None:
    """Raise JobException where a workflow is being started by a worker that only loads the script."""
    if is_loading_main():
        raise JobException(
            "cannot start a workflow while a worker loads its script; "
            "put the start under: if __name__ == '__main__':"
        )
