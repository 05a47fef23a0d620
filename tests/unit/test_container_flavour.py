"""Which Singularity a program is, and the command line that each gets; text in, words out."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from toilcache.containers.flavour import Flavour, parse_version
from toilcache.containers.model import ContainerSpec, Image, Mount
from toilcache.containers.singularity import LABEL_VARIABLE, NAME_VARIABLE, command_line, outer_environment
from toilcache.errors import ContainerError

NEW = Flavour("apptainer", 1, 4)
OLD = Flavour("singularity", 3, 8)
SPEC = ContainerSpec(Image("an image", "sif:1", "/images/a b.sif"), ("echo", "$(id)"), "name-1")


@pytest.mark.parametrize(
    ("said", "flavour"),
    [
        ("apptainer version 1.4.5\n", Flavour("apptainer", 1, 4)),
        ("apptainer version 1.3.6-1.el9\n", Flavour("apptainer", 1, 3)),
        ("singularity-ce version 3.11.4-jammy\n", Flavour("singularity-ce", 3, 11)),
        ("singularity-ce version 4.1.0\n", Flavour("singularity-ce", 4, 1)),
        ("singularity version 3.8.7\n", Flavour("singularity", 3, 8)),
        ("SingularityPRO version 3.9-8.el8\n", Flavour("singularity-ce", 3, 9)),
        ("2.6.1-dist\n", None),
        ("", None),
    ],
)
def test_versions_as_they_are_printed(said: str, flavour: Flavour | None) -> None:
    assert parse_version(said) == flavour


@pytest.mark.parametrize(
    ("flavour", "literal", "mounts", "limits", "cwd"),
    [
        (Flavour("apptainer", 1, 4), True, True, True, "--cwd"),
        (Flavour("apptainer", 1, 1), True, True, True, "--pwd"),
        (Flavour("apptainer", 1, 0), False, True, False, "--pwd"),
        (Flavour("singularity-ce", 4, 0), True, True, True, "--cwd"),
        (Flavour("singularity-ce", 3, 10), True, True, True, "--pwd"),
        (Flavour("singularity-ce", 3, 9), False, True, False, "--pwd"),
        (Flavour("singularity", 3, 8), False, False, False, "--pwd"),
    ],
)
def test_what_each_can_do(flavour: Flavour, literal: bool, mounts: bool, limits: bool, cwd: str) -> None:
    assert (flavour.literal, flavour.mounts, flavour.limits, flavour.cwd_flag) == (
        literal,
        mounts,
        limits,
        cwd,
    )


def test_the_words_of_a_new_one() -> None:
    spec = replace(
        SPEC,
        mounts=(Mount("/a, b", '/c "d"'), Mount("/e\nf", "/e\nf", read_only=False)),
        environment={"HOME": "/h", "VALUE": "secret"},
        cwd="/c",
        cores=1.5,
        memory=1 << 20,
        pids=7,
        gpus=(0,),
        network="none",
    )
    argv = command_line(spec, "/bin/apptainer", NEW, drop_sys_resource=True)
    assert argv == [
        *("/bin/apptainer", "--quiet", "exec", "--containall", "--no-home", "--no-eval", "--cwd", "/c"),
        *("--drop-caps", "CAP_SYS_RESOURCE", "--net", "--network", "none", "--nv"),
        *("--cpus", "1.5", "--memory", "1048576", "--pids-limit", "7"),
        *("--mount", '"type=bind","source=/a, b","destination=/c ""d""","ro"'),
        *("--mount", '"type=bind","source=/e\nf","destination=/e\nf"'),
        *("/images/a b.sif", "env", "HOME=/h", "echo", "$(id)"),
    ]
    assert next(csv.reader([argv[argv.index("--mount") + 1]]))[1] == "source=/a, b"
    assert "secret" not in " ".join(argv)


def test_the_words_of_an_old_one() -> None:
    spec = replace(SPEC, mounts=(Mount("/a b", "/c"), Mount("/d", "/d", read_only=False)))
    assert command_line(spec, "singularity", OLD) == [
        *("singularity", "--quiet", "exec", "--containall", "--no-home", "--pwd", "/"),
        *("--bind", "/a b:/c:ro", "--bind", "/d:/d:rw", "/images/a b.sif", "echo", "$(id)"),
    ]


@pytest.mark.parametrize("path", ["/a,b", "/a:b", "/a\\b"])
def test_a_path_that_an_old_one_would_split_is_refused_by_name(path: str) -> None:
    spec = replace(SPEC, mounts=(Mount(path, path),))
    NEW.check(spec)
    with pytest.raises(ContainerError, match=r"cannot mount .*singularity 3\.8 takes no"):
        OLD.check(spec)


@pytest.mark.parametrize("value", ["$HOME", "`id`", 'a"b', "a\\b"])
def test_a_value_that_an_old_one_would_expand_is_refused_without_telling_it(value: str) -> None:
    spec = replace(SPEC, environment={"TOKEN": value})
    NEW.check(spec)
    with pytest.raises(ContainerError, match=r"cannot set TOKEN in a container") as caught:
        OLD.check(spec)
    assert value not in str(caught.value).partition("leave out")[0]


def test_variables_go_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPTAINERENV_OURS", "1")
    monkeypatch.setenv("SINGULARITYENV_OURS", "1")
    spec = replace(SPEC, environment={"HOME": "/h", "A": "b\nc"}, labels={"toilcache.run": "3"})
    outside = outer_environment(spec)
    for prefix in ("APPTAINERENV_", "SINGULARITYENV_"):
        inside = {name: value for name, value in outside.items() if name.startswith(prefix)}
        assert inside == {
            f"{prefix}A": "b\nc",
            f"{prefix}{NAME_VARIABLE}": "name-1",
            f"{prefix}{LABEL_VARIABLE}toilcache__run": "3",
        }
