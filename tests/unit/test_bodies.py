"""Bodies: what goes by reference, what by value, and what is refused and how that is said."""

from __future__ import annotations

import collections
import enum
import pickle
import pickletools
import sys
import threading
import types

import pytest

from tests.unit.job_fakes import DictStore, FakeFileStore, add, identity, run_all, run_one
from toilcache.errors import JobException
from toilcache.job import MAIN_NAME, Job, ModuleDescriptor, dumps, loads, resolve_values, saving
from toilcache.job import body as body_module
from toilcache.job.module import is_loading_main, load_main, main_import_name

SCRIPT = """
import enum
from toilcache.job import Job
LOADED = []
def double(x):
    return 2 * x
class Colour(enum.Enum):
    RED = 1
class Point:
    def __init__(self, x):
        self.x = x
    class Inner:
        pass
    @staticmethod
    def static(x):
        return x + 1
    @classmethod
    def of(cls, x):
        return cls(x)
class Mine(Job):
    def __init__(self, value):
        super().__init__(memory="1 MiB")
        self.value = value
    def run(self, fileStore):
        return Point(self.value)
if __name__ == "__main__":
    LOADED.append("guarded")
"""


@pytest.fixture
def clean_modules(monkeypatch):
    """Put modules, import path and what was remembered of them back afterwards.

    But for cloudpickle: what uses it is made once, and knows its functions by the name of their module.
    """
    import cloudpickle  # noqa: F401

    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    sys.modules.pop(MAIN_NAME, None)
    saving.describe_module.cache_clear()
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)
    saving.describe_module.cache_clear()


@pytest.fixture
def script(tmp_path, clean_modules):
    """A script that runs as the main program, at a path that invites mistakes."""
    folder = tmp_path / "-dir with 'quotes'\n and ünïcode"
    folder.mkdir()
    path = folder / "my flow-2.script"
    path.write_text(SCRIPT)
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    exec(compile(SCRIPT, str(path), "exec"), main.__dict__)
    return main


def become_worker():
    """Forget the main program, as another process never had it."""
    sys.modules.pop(MAIN_NAME, None)
    sys.modules["__main__"] = types.ModuleType("__main__")


def round_trip(value):
    data, refs = dumps(value, "test")
    assert refs == []
    return loads(data)


@pytest.mark.parametrize(
    "value",
    [
        add,
        len,
        str.upper,
        dict,
        type(None),
        types.SimpleNamespace,
        list[int],
        collections.OrderedDict(a=1),
        enum.IntEnum,
        threading.Thread,
        {"a": [1, (2, {3})], b"b": None},
        slice(1, 2),
        ...,
    ],
)
def test_what_has_a_name_goes_by_reference(value):
    data, _ = dumps(value, "test")
    assert data.startswith(b"\x80")
    assert loads(data) == value
    assert pickle.loads(data) == value


def test_functions_and_classes_of_the_main_script_travel_by_name(script):
    point = script.Point(3)
    value = [
        script.double,
        script.Colour.RED,
        point,
        script.Point.Inner,
        script.Point.static,
        script.Point.of,
    ]
    data, _ = dumps(value, "test")
    assert data.startswith(b"\x80")
    names = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    assert MAIN_NAME in names
    assert "__main__" not in names
    here = loads(data)
    assert here[0] is script.double
    assert here[1] is script.Colour.RED
    descriptor = ModuleDescriptor.forModule("__main__")
    assert sys.modules[MAIN_NAME] is script

    become_worker()
    with pytest.raises(JobException, match="script in this process"):
        loads(data)
    module = descriptor.load()
    there = loads(data)
    assert module.LOADED == []
    assert there[0] is module.double
    assert there[0] is not script.double
    assert there[0](4) == 8
    assert there[2].x == 3
    assert (there[4](1), there[5](7).x) == (2, 7)
    back, _ = dumps(there, "test")
    assert pickle.loads(back)[2].x == 3

    sys.modules["__main__"] = script
    del sys.modules[MAIN_NAME]
    home = loads(back)
    assert home[0] is script.double
    assert isinstance(home[2], script.Point)


def test_a_loaded_script_takes_the_place_of_main_for_the_users_own_pickles(script):
    data = pickle.dumps(script.Point(9))
    assert b"__main__" in data
    descriptor = ModuleDescriptor.forModule("__main__")
    become_worker()
    module = load_main(descriptor)
    assert load_main(descriptor) is module
    assert pickle.loads(data).x == 9
    assert sys.path[0] == descriptor.dirPath
    assert module.__file__.endswith("my flow-2.script")


def test_jobs_of_the_main_script_run_elsewhere(script):
    store = DictStore()
    root = script.Mine(5)
    child = root.addChildFn(script.double, root.rv())
    root.addChildFn(script.double, 4)
    root.saveAsRootJob(store)
    body, module = store.load_job(store.root).get_body()
    assert body == f"body:{store.root}"
    assert (module.name, module.script) == (MAIN_NAME, "my flow-2.script")
    become_worker()
    run_one(store, store.root)
    assert resolve_values(store, [store.root])[store.root].x == 5
    assert store.load_job(child.jobStoreID).get_body()[1] == module


def test_a_script_that_is_gone_is_named(script, tmp_path):
    descriptor = ModuleDescriptor.forModule("__main__")._replace(script="gone.py")
    become_worker()
    with pytest.raises(JobException, match=r"gone\.py.*No such file.*visible"):
        descriptor.load()
    assert MAIN_NAME not in sys.modules


def test_a_name_that_left_the_script_is_named(script):
    data, _ = dumps(script.double, "test")
    del script.double
    with pytest.raises(JobException, match=r"cannot find 'double' in .*my flow-2\.script"):
        loads(data)


def test_a_script_without_main_guard_does_not_start_itself_again(script, tmp_path):
    path = tmp_path / "loop.py"
    path.write_text(
        "from toilcache.job import Job\nfrom tests.unit.job_fakes import DictStore\n"
        "Job().saveAsRootJob(DictStore())\n"
    )
    become_worker()
    with pytest.raises(JobException, match="__name__ == '__main__'"):
        load_main(ModuleDescriptor(str(tmp_path), MAIN_NAME, False, "loop.py"))
    assert MAIN_NAME not in sys.modules
    assert not is_loading_main()


def test_a_main_module_run_with_dash_m_keeps_its_own_name(tmp_path, clean_modules):
    package = tmp_path / "flowpkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text(SCRIPT)
    main = types.ModuleType("__main__")
    main.__file__ = str(package / "deep.py")
    main.__spec__ = types.SimpleNamespace(name="flowpkg.deep")
    sys.modules["__main__"] = main
    exec(SCRIPT, main.__dict__)
    assert main_import_name() == "flowpkg.deep"
    data, _ = dumps([main.double, main.Point(1)], "test")
    descriptor = ModuleDescriptor.forModule("__main__")
    assert descriptor == (str(tmp_path), "flowpkg.deep", False, "")
    assert loads(data)[0] is main.double
    become_worker()
    sys.path.insert(0, str(tmp_path))
    there = loads(data)
    module = descriptor.load()
    assert there[0] is module.double
    assert module.__name__ == "flowpkg.deep"
    back, _ = dumps(there, "test")
    del sys.modules["flowpkg.deep"]
    sys.modules["__main__"] = main
    assert isinstance(loads(back)[1], main.Point)


def test_modules_are_described_by_directory_and_name():
    here = ModuleDescriptor.forModule("tests.unit.job_fakes")
    assert here.name == "tests.unit.job_fakes"
    assert sys.modules["tests.unit.job_fakes"].__file__.startswith(here.dirPath + "/tests/unit/")
    package = ModuleDescriptor.forModule("toilcache.job")
    assert sys.modules["toilcache"].__file__.startswith(package.dirPath + "/toilcache/")
    assert ModuleDescriptor.forModule("pytest").fromVirtualEnv
    assert here.load() is sys.modules["tests.unit.job_fakes"]
    for name in ("sys", "no.such.module"):
        with pytest.raises(JobException, match="stands in a file"):
            ModuleDescriptor.forModule(name)


def test_a_module_beside_the_script_is_found_by_its_directory(tmp_path, clean_modules):
    (tmp_path / "beside_it.py").write_text("def triple(x):\n    return 3 * x\n")
    module = ModuleDescriptor(str(tmp_path), "beside_it").load()
    assert module.triple(2) == 6
    assert sys.path[0] == str(tmp_path)


def test_lambdas_and_closures_travel_by_value_with_their_promises():
    store = DictStore()
    root = Job.wrapFn(identity, 30)
    promise = root.rv()
    child = root.addChildFn(lambda: promise)
    other = root.addChildFn(lambda x, y=2: x * y, promise)
    root.saveAsRootJob(store)
    assert store.load_job(child.jobStoreID).promised == [root.jobStoreID]
    run_all(store)
    values = resolve_values(store, [child.jobStoreID, other.jobStoreID])
    assert values == {child.jobStoreID: 30, other.jobStoreID: 60}


def test_classes_without_a_name_travel_by_value():
    class Local(Job):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def run(self, fileStore):
            return self.value + 1

    store = DictStore()
    Local(1).saveAsRootJob(store)
    run_all(store)
    assert resolve_values(store, [store.root])[store.root] == 2


@pytest.mark.parametrize("file", [None, "<stdin>"])
def test_an_interactive_main_program_travels_by_value(clean_modules, file):
    main = types.ModuleType("__main__")
    main.__file__ = file
    sys.modules["__main__"] = main
    exec("def f(x):\n    return x + g(x)\ndef g(x):\n    return 10 * x\n", main.__dict__)
    assert main_import_name() is None
    with pytest.raises(JobException, match="main program's file"):
        ModuleDescriptor.forModule("__main__")
    store = DictStore()
    Job.wrapFn(main.f, 2).saveAsRootJob(store)
    assert store.load_job(store.root).get_body()[1] is None
    become_worker()
    run_all(store)
    assert resolve_values(store, [store.root])[store.root] == 22


def test_by_value_is_refused_by_another_minor_version(monkeypatch):
    data, _ = dumps(lambda: 1, "test")
    assert loads(data)() == 1
    monkeypatch.setattr(body_module, "_python", lambda: "3.99")
    with pytest.raises(JobException, match=rf"Python 3\.{sys.version_info[1]} and this is Python 3\.99"):
        loads(data)


def test_cloudpickle_is_not_imported_for_what_has_a_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    body_module._value_pickler.cache_clear()
    assert round_trip([add, {"x": 1}])[0] is add
    with pytest.raises(JobException, match="cloudpickle"):
        dumps(lambda: 1, "test")
    body_module._value_pickler.cache_clear()


class Holder:
    def __init__(self, **parts):
        vars(self).update(parts)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Job.wrapFn(add, 1, threading.Lock()), r"argument 2 'b' \(_thread\.lock\)"),
        (lambda: Job.wrapFn(add, a=threading.Lock()), r"argument 'a' \(_thread\.lock\)"),
        (
            lambda: Job.wrapFn(identity, {"k": [1, Holder(lock=threading.Lock())]}),
            r"argument 1 'value' \['k'\] item 1 attribute 'lock' \(_thread\.lock\)",
        ),
        (lambda: Job.wrapFn(identity, (i for i in [1])), r"argument 1 'value' \(generator\)"),
    ],
)
def test_what_cannot_be_pickled_is_named_with_its_job(make, named):
    root = Job(displayName="root")
    root.addChild(make())
    with pytest.raises(JobException, match=rf"cannot save job '.*?: {named}.* cannot be pickled: ") as caught:
        root.saveAsRootJob(DictStore())
    assert "\n" not in str(caught.value)


def test_what_a_closure_holds_is_named():
    lock = threading.Lock()
    with pytest.raises(JobException, match=r"the function closed-over 'lock' \(_thread\.lock\)"):
        Job.wrapFn(lambda: lock).saveAsRootJob(DictStore())


def test_attributes_of_job_classes_are_named():
    job = Job(displayName="mine")
    job.connection = {"socket": threading.Lock()}
    with pytest.raises(JobException, match=r"cannot save job 'mine'.*attribute 'connection' \['socket'\]"):
        job.saveAsRootJob(DictStore())


def test_a_return_value_that_cannot_be_pickled_is_named():
    with pytest.raises(
        JobException, match=r"cannot save the return value of job 'x': item 1 \(_thread.lock\)"
    ):
        dumps([1, threading.Lock()], "the return value of job 'x'")


def test_endless_nesting_is_said_to_be_that():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(JobException, match="nested too deeply"):
        Job.wrapFn(identity, value).saveAsRootJob(DictStore())
    while value:
        value = value.pop()


def test_a_job_among_the_arguments_is_refused_with_advice():
    root = Job()
    other = root.addChild(Job(displayName="other"))
    root.addChildFn(identity, [other])
    with pytest.raises(
        JobException, match=r"argument 1 'value' item 0 .*pass what the job returns, with \.rv\(\)"
    ):
        root.saveAsRootJob(DictStore())


def test_a_job_kept_as_an_attribute_is_refused_with_advice():
    root = Job()
    root.child = root.addChild(Job())
    with pytest.raises(JobException, match=r"attribute 'child' .*\.rv\(\)"):
        root.saveAsRootJob(DictStore())


def test_a_job_as_return_value_is_refused_with_advice():
    job = Job()
    with pytest.raises(JobException, match=r"the object \(toilcache\.job\.job\.Job\) is no data; .*\.rv\(\)"):
        dumps(job, "the return value of job 'x'")


def test_stores_are_not_dragged_along():
    from toilcache.file_store.abstract import AbstractFileStore

    class Store(AbstractFileStore):
        pass

    Store.__abstractmethods__ = frozenset()
    with pytest.raises(JobException, match=r"argument 1 'value' .*job\.fileStore"):
        Job.wrapFn(identity, object.__new__(Store)).saveAsRootJob(DictStore())


def test_a_body_holds_nothing_of_the_graph_and_nothing_of_a_run():
    store = DictStore()
    root = Job.wrapFn(identity, 1)
    middle = root.addChildFn(add, 2)
    middle.addFollowOnFn(add, 3)
    root.saveAsRootJob(store)
    data = store.load_job(middle.jobStoreID).inline_body
    lonely = Job.wrapFn(add, 2)
    lonely.saveAsRootJob(DictStore())
    assert data == lonely.description.inline_body
    loaded = Job.loadJob(store, store.load_job(middle.jobStoreID))
    loaded._file_store, loaded._temp_dir, loaded._defer = FakeFileStore(store), "/x", print
    assert set(loaded.__getstate__()) == {"userFunction", "_args", "_kwargs"}


def test_large_bodies_go_to_a_file_that_goes_with_the_job():
    store = DictStore()
    small = Job.wrapFn(identity, b"x" * 60_000)
    large = small.addChildFn(identity, b"x" * 70_000)
    small.saveAsRootJob(store)
    assert store.load_job(store.root).inline_body is not None
    description = store.load_job(large.jobStoreID)
    assert description.inline_body is None
    file_id, module = description.get_body()
    assert store.owners[file_id] == large.jobStoreID
    assert module.name == "tests.unit.job_fakes"
    run_all(store)
    assert len(resolve_values(store, [large.jobStoreID])[large.jobStoreID]) == 70_000


def test_a_body_that_is_no_job_is_refused():
    store = DictStore()
    Job().saveAsRootJob(store)
    description = store.load_job(store.root)
    description.inline_body = pickle.dumps("text")
    with pytest.raises(JobException, match="its body is a str"):
        Job.loadJob(store, description)
