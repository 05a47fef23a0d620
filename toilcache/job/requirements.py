"""What a job needs to run: memory, cores, disk, accelerators, and whether it may be preempted.

Knows how values given by a person are read and which defaults a configuration supplies. Must not know where
jobs run or what a machine has.
"""

from __future__ import annotations

from toilcache.errors import JobException, UnitError
from toilcache.units import format_size, parse_cores, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias, TypedDict

    from toilcache.config import Config

    class AcceleratorRequirement(TypedDict, total=False):
        """One kind of accelerator: how many, and what is known of its maker and interface."""

        count: int
        kind: str
        brand: str
        api: str
        model: str

    ParseableIndivisibleResource: TypeAlias = str | int
    ParseableDivisibleResource: TypeAlias = str | int | float
    ParseableFlag: TypeAlias = str | int | bool
    _Accelerator: TypeAlias = str | int | Mapping[str, Any] | AcceleratorRequirement
    ParseableAcceleratorRequirement: TypeAlias = _Accelerator | Iterable[_Accelerator]
else:
    AcceleratorRequirement = dict

RESOURCES = ("memory", "cores", "disk", "accelerators", "preemptible")
"""The names under which requirements are stored; `preemptable` is read as `preemptible`."""

SPELLINGS = (*RESOURCES, "preemptable")
"""The keywords by which a person gives requirements."""

_DEFAULTS = {
    "memory": "defaultMemory",
    "cores": "defaultCores",
    "disk": "defaultDisk",
    "accelerators": "defaultAccelerators",
    "preemptible": "defaultPreemptible",
}
_BRANDS = ("nvidia", "amd")
_APIS = ("cuda", "rocm", "opencl")
_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class Requirer:
    """A thing with resource requirements, its own or those of the assigned configuration.

    Memory and disk are bytes, cores may be a fraction. Raises UnitError for a value that cannot be read.
    """

    _requirements: dict[str, Any]
    _config: Config | None = None

    def __init__(self, requirements: Mapping[str, Any]) -> None:
        """Read the given requirements; None stands for the configuration's default."""
        read: dict[str, Any] = {}
        for name, value in requirements.items():
            if value is not None:
                key = "preemptible" if name == "preemptable" else name
                read[key] = parse_requirement(key, value)
        self._requirements = read

    def assignConfig(self, config: Config) -> None:
        """Give the configuration that supplies defaults (specification line 287)."""
        self._config = config

    @property
    def requirements(self) -> dict[str, Any]:
        """All requirements by name, defaults filled in."""
        return {name: self._requirement(name) for name in RESOURCES}

    @property
    def memory(self) -> int:
        """Bytes of memory at most in use (specification line 281)."""
        value: int = self._requirement("memory")
        return value

    @memory.setter
    def memory(self, value: ParseableIndivisibleResource) -> None:
        self._requirements["memory"] = parse_requirement("memory", value)

    @property
    def disk(self) -> int:
        """Bytes of local disk at most in use, files read included."""
        value: int = self._requirement("disk")
        return value

    @disk.setter
    def disk(self, value: ParseableIndivisibleResource) -> None:
        self._requirements["disk"] = parse_requirement("disk", value)

    @property
    def cores(self) -> float:
        """Processor cores, maybe a fraction."""
        value: float = self._requirement("cores")
        return value

    @cores.setter
    def cores(self, value: ParseableDivisibleResource) -> None:
        self._requirements["cores"] = parse_requirement("cores", value)

    @property
    def accelerators(self) -> list[AcceleratorRequirement]:
        """Accelerators such as GPUs (specification line 283)."""
        value: list[AcceleratorRequirement] = self._requirement("accelerators")
        return value

    @accelerators.setter
    def accelerators(self, value: ParseableAcceleratorRequirement) -> None:
        self._requirements["accelerators"] = parse_requirement("accelerators", value)

    @property
    def preemptible(self) -> bool:
        """Whether it may run where it can be taken off the machine at any time."""
        value: bool = self._requirement("preemptible")
        return value

    @preemptible.setter
    def preemptible(self, value: ParseableFlag) -> None:
        self._requirements["preemptible"] = parse_requirement("preemptible", value)

    def scale(self, requirement: str, factor: float) -> None:
        """Multiply one of memory, disk and cores by a factor; bytes are rounded down."""
        value = self._requirement(requirement) * factor
        self._requirements[requirement] = value if requirement == "cores" else int(value)

    def requirements_string(self) -> str:
        """All requirements in one line for a person."""
        parts = [
            f"cores {self.cores:g}",
            f"memory {format_size(self.memory)}",
            f"disk {format_size(self.disk)}",
        ]
        parts += [
            f"{a.get('count', 1)} x {a.get('model') or a.get('kind', 'gpu')}" for a in self.accelerators
        ]
        return ", ".join([*parts, "preemptible"] if self.preemptible else parts)

    def _requirement(self, name: str) -> Any:
        try:
            return self._requirements[name]
        except KeyError:
            pass
        if self._config is None:
            raise JobException(
                f"cannot tell the {name} of {self}: none was given and no configuration is assigned; "
                f"pass {name}= or call assignConfig first"
            )
        return parse_requirement(name, getattr(self._config, _DEFAULTS[name]))


def parse_requirement(name: str, value: Any) -> Any:
    """Read the value of a requirement as a person may write it; UnitError where it makes no sense."""
    if name == "cores":
        return parse_cores(value)
    if name in ("memory", "disk"):
        return parse_size(value)
    if name == "preemptible":
        return _parse_flag(value)
    if name == "accelerators":
        return parse_accelerators(value)
    raise JobException(f"cannot require {name!r}: unknown resource; known are {', '.join(RESOURCES)}")


def _parse_flag(value: Any) -> bool:
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise UnitError(f"cannot read {value!r} as preemptible; write True or False")
    return flag


def parse_accelerators(value: Any) -> list[AcceleratorRequirement]:
    """Read one accelerator requirement, a list of them, or a text of several between commas."""
    if value is None:
        return []
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, (int, dict)):
        value = [value]
    return [found for found in (parse_accelerator(item) for item in value) if found["count"]]


def parse_accelerator(spec: int | str | Mapping[str, Any]) -> AcceleratorRequirement:
    """Read one accelerator: a number of GPUs, "gpu:2", "nvidia-tesla-k80:1", "cuda", or a dictionary.

    Raises UnitError for a count that is no number and for unknown keys of a dictionary.
    """
    if isinstance(spec, str):
        return _parse_accelerator_text(spec)
    if isinstance(spec, (bool, float)) or (isinstance(spec, int) and spec < 0):
        raise UnitError(
            f'cannot read {spec!r} as accelerators; write a number, "gpu:2" or "nvidia-tesla-k80:1"'
        )
    if isinstance(spec, int):
        return {"count": spec, "kind": "gpu"}
    unknown = set(spec) - {"count", "kind", "brand", "api", "model"}
    if unknown:
        raise UnitError(f"cannot read accelerator {dict(spec)!r}: unknown key {sorted(unknown)[0]!r}")
    found: Any = {"count": 1, "kind": "gpu", **spec}
    if not isinstance(found["count"], int) or isinstance(found["count"], bool) or found["count"] < 0:
        raise UnitError(f"cannot read accelerator {dict(spec)!r}: its count is no whole number")
    return found  # type: ignore[no-any-return]


def _parse_accelerator_text(spec: str) -> AcceleratorRequirement:
    text = spec.strip().lower()
    name, colon, count = text.rpartition(":")
    if not colon:
        name, count = ("", text) if text.isdecimal() else (text, "1")
    if not count.isdecimal() or not (name or count):
        raise UnitError(
            f'cannot read {spec!r} as an accelerator; write a number, "gpu:2" or "nvidia-tesla-k80:1"'
        )
    found: AcceleratorRequirement = {"count": int(count), "kind": "gpu"}
    if name in _APIS:
        found["api"] = name
    elif name in _BRANDS:
        found["brand"] = name
    elif name and name != "gpu":
        brand = name.partition("-")[0]
        if brand in _BRANDS:
            found["brand"] = brand
        found["model"] = name
    return found


def accelerator_satisfies(
    candidate: AcceleratorRequirement, requirement: AcceleratorRequirement, ignore: Iterable[str] = ()
) -> bool:
    """Tell whether an accelerator at hand is of the kind that is required, its count left aside."""
    keys = [key for key in ("kind", "brand", "api", "model") if key not in ignore]
    return all(key not in requirement or candidate.get(key) == requirement[key] for key in keys)  # type: ignore[literal-required]
