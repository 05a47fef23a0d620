"""Repeating what may work the next time, and the marks of old names."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from toilcache.retry import ErrorCondition, deprecated, retry


class ServiceError(Exception):
    """Like botocore's ClientError."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"an error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class HttpError(Exception):
    """Like requests' HTTPError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url")
        self.response = type("Response", (), {"status_code": status})()


class UrlError(Exception):
    """Like urllib's HTTPError."""

    def __init__(self, code: int) -> None:
        super().__init__("refused")
        self.code = code


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses asked for, none of which takes place."""
    asked: list[float] = []
    monkeypatch.setattr("toilcache.retry.time.sleep", asked.append)
    return asked


def failing(*outcomes: Any) -> Callable[..., Any]:
    """A function that raises or returns one outcome after the other, and counts its calls."""
    queue = list(outcomes)

    def function(*args: Any, **kwargs: Any) -> Any:
        function.calls.append((args, kwargs))  # type: ignore[attr-defined]
        outcome = queue.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    function.calls = []  # type: ignore[attr-defined]
    return function


def test_success_is_returned_at_once(pauses: list[float]) -> None:
    assert retry()(failing("result"))(1, a=2) == "result"
    assert pauses == []


def test_the_default_backs_off_and_then_raises_the_last_error(pauses: list[float]) -> None:
    errors = [OSError(str(n)) for n in range(7)]
    function = failing(*errors)
    with pytest.raises(OSError, match="6") as caught:
        retry()(function)()
    assert caught.value is errors[6]
    assert pauses == [1, 1, 2, 4, 8, 16]


def test_every_call_has_all_intervals(pauses: list[float]) -> None:
    function = retry(intervals=[3])(failing(OSError(), "a", OSError(), "b"))
    assert [function(), function()] == ["a", "b"]
    assert pauses == [3, 3]


def test_no_intervals_is_one_attempt(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="only"):
        retry(intervals=[])(failing(OSError("only")))()
    assert pauses == []


def test_infinite_retries_start_over(pauses: list[float]) -> None:
    function = failing(*[OSError()] * 5, "at last")
    assert retry(intervals=[1, 2], infinite_retries=True)(function)() == "at last"
    assert pauses == [1, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="without a pause"):
        retry(intervals=[], infinite_retries=True)


def test_other_errors_are_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(KeyError):
        retry(errors=[OSError])(failing(KeyError()))()
    with pytest.raises(KeyboardInterrupt):
        retry()(_interrupt)()
    assert pauses == []


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_preparation_gets_the_arguments_between_attempts(pauses: list[float]) -> None:
    prepared: list[Any] = []
    function = failing(OSError(), OSError(), "done")
    retry(prepare=[lambda *args, **kwargs: prepared.append((args, kwargs))])(function)(1, k=2)
    assert prepared == [((1,), {"k": 2})] * 2
    assert function.calls == [((1,), {"k": 2})] * 3  # type: ignore[attr-defined]


def test_the_message_precedes_every_attempt(pauses: list[float]) -> None:
    said: list[str] = []
    retry(log_message=(said.append, "trying"), intervals=[1])(failing(OSError(), "done"))()
    assert said == ["trying", "trying"]


def test_the_function_keeps_its_name_and_documentation() -> None:
    decorated = retry()(_interrupt)
    assert decorated.__name__ == "_interrupt"


@pytest.mark.parametrize(
    ("condition", "error", "fits"),
    [
        (ErrorCondition(), KeyError("x"), True),
        (ErrorCondition(OSError), KeyError("x"), False),
        (ErrorCondition(OSError, error_codes=[errno.EIO]), OSError(errno.EIO, "io"), True),
        (ErrorCondition(OSError, error_codes=[errno.EIO]), OSError(errno.EPERM, "no"), False),
        (ErrorCondition(HttpError, error_codes=[503]), HttpError(503), True),
        (ErrorCondition(HttpError, error_codes=[503]), HttpError(404), False),
        (ErrorCondition(UrlError, error_codes=[429, 500]), UrlError(500), True),
        (ErrorCondition(error_codes=[500]), ServiceError("Busy", 500), True),
        (ErrorCondition(error_codes=[500]), ServiceError("Busy", 400), False),
        (ErrorCondition(boto_error_codes=["Busy"]), ServiceError("Busy", 500), True),
        (ErrorCondition(boto_error_codes=["Busy"]), ServiceError("NoSuchKey", 500), False),
        (ErrorCondition(boto_error_codes=["Busy"]), OSError("Busy"), False),
        (ErrorCondition(error_message_must_include="time"), OSError("timed out"), True),
        (ErrorCondition(error_message_must_include="Time"), OSError("timed out"), False),
        (ErrorCondition(UrlError, [500], None, "refused"), UrlError(500), True),
        (ErrorCondition(UrlError, [500], None, "reset"), UrlError(500), False),
    ],
)
def test_conditions(condition: ErrorCondition, error: Exception, fits: bool, pauses: list[float]) -> None:
    assert condition.matches(error) is fits
    function = retry(errors=[condition])(failing(error, "done"))
    if fits:
        assert function() == "done"
    else:
        with pytest.raises(type(error)):
            function()


def test_a_condition_can_forbid_what_another_allows(pauses: list[float]) -> None:
    never = ErrorCondition(UrlError, error_codes=[404], retry_on_this_condition=False)
    with pytest.raises(UrlError):
        retry(errors=[UrlError, never])(failing(UrlError(404)))()
    assert retry(errors=[UrlError, never])(failing(UrlError(500), "done"))() == "done"


class Api:
    @deprecated("new_name")
    def oldName(self, value: int) -> int:
        """Return more."""
        return value + 1

    @classmethod
    @deprecated("made")
    def make(cls) -> str:
        return cls.__name__


def test_an_old_name_works_and_warns_where_it_is_called() -> None:
    with pytest.warns(DeprecationWarning, match=r"oldName\(\) is deprecated; use new_name\(\)") as caught:
        assert Api().oldName(1) == 2
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"use made\(\)"):
        assert Api.make() == "Api"


def test_an_old_name_carries_its_mark_and_documentation() -> None:
    assert "new_name" in Api.oldName.__deprecated__  # type: ignore[attr-defined]
    assert Api.oldName.__doc__ == "Return more."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning):
            Api().oldName(1)
