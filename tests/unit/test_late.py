"""Names that are resolved at first use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from toilcache.late import LateAttribute, late


class Holder:
    join = LateAttribute("os.path:join")
    unknown = LateAttribute("os.path:no_such_name")


def test_late_finds_modules_attributes_and_nested_ones() -> None:
    assert late("os.path:join") is os.path.join
    assert late("collections:OrderedDict.fromkeys")("a") == {"a": None}


def test_late_says_what_is_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        late("no_such_module:x")
    with pytest.raises(AttributeError, match="no_such_name"):
        late("os:no_such_name")


def test_an_attribute_is_the_value_itself_on_class_and_instance() -> None:
    assert Holder.join is os.path.join
    assert Holder().join("a", "b") == os.path.join("a", "b")
    with pytest.raises(AttributeError):
        _ = Holder.unknown


def test_nothing_is_imported_before_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text("value = object()")
    monkeypatch.syspath_prepend(tmp_path)

    class Other:
        attribute = LateAttribute("imported_late:value")

    assert "imported_late" not in sys.modules
    first = Other.attribute
    assert sys.modules.pop("imported_late").value is first
    assert Other.attribute is first, "looked up once"
