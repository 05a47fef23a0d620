"""Repeating what may work the next time, and marking what has a newer name.

Knows exceptions and waiting. Must not know what is repeated, nor import logging or a cloud library: error
codes are recognised by the attributes that those libraries give their exceptions.
"""

from __future__ import annotations

import functools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    RT = TypeVar("RT")

DEFAULT_INTERVALS = (1, 1, 2, 4, 8, 16)

# Where exceptions keep their code: urllib, docker and others, requests' response, sub-processes, the system.
_CODE_ATTRIBUTES = ("code", "status_code", "http_status", "status", "returncode", "exit_code", "errno")


class ErrorCondition:
    """A description of errors, finer than their class (specification line 1095)."""

    def __init__(
        self,
        error: type[Exception] | None = None,
        error_codes: list[int] | None = None,
        boto_error_codes: list[str] | None = None,
        error_message_must_include: str | None = None,
        retry_on_this_condition: bool = True,
    ) -> None:
        """Describe errors by class, numeric codes, service codes and text; what is None is not looked at.

        With `retry_on_this_condition` False an error that fits is raised at once, whatever else fits it.
        """
        self.error = error
        self.error_codes = error_codes
        self.boto_error_codes = boto_error_codes
        self.error_message_must_include = error_message_must_include
        self.retry_on_this_condition = retry_on_this_condition

    def matches(self, error: Exception) -> bool:
        """Say whether an error fits everything that this condition asks for."""
        return (
            isinstance(error, self.error or Exception)
            and (self.error_codes is None or not set(self.error_codes).isdisjoint(_codes(error)))
            and (self.boto_error_codes is None or _service_code(error) in self.boto_error_codes)
            and (self.error_message_must_include is None or self.error_message_must_include in str(error))
        )


def retry(
    intervals: list[float] | None = None,
    infinite_retries: bool = False,
    errors: Sequence[ErrorCondition | type[Exception]] | None = None,
    log_message: tuple[Callable[[str], Any], str] | None = None,
    prepare: list[Callable[..., Any]] | None = None,
) -> Callable[[Callable[P, RT]], Callable[P, RT]]:
    """Decorate a function so that it is called again after an error (specification line 1098).

    `intervals` are the pauses in seconds, one for each further call, 1 1 2 4 8 16 by default; with
    `infinite_retries` they start over when used up. `errors` says which errors count (any Exception by
    default). `log_message` is (function, text), called before each attempt; the functions in `prepare` get
    the call's own arguments before each further attempt. The last error is raised as it is.
    """
    pauses = list(DEFAULT_INTERVALS if intervals is None else intervals)
    if infinite_retries and not pauses:
        raise ValueError("cannot retry for ever without a pause; give at least one interval")
    wanted = [e if isinstance(e, ErrorCondition) else ErrorCondition(e) for e in errors or (Exception,)]

    def decorate(function: Callable[P, RT]) -> Callable[P, RT]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> RT:
            for pause in _repeat(pauses, infinite_retries):
                _announce(log_message)
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    if not _worth_another(error, wanted):
                        raise
                time.sleep(pause)
                for reset in prepare or ():
                    reset(*args, **kwargs)
            _announce(log_message)
            return function(*args, **kwargs)

        return call

    return decorate


def deprecated(new_function_name: str) -> Callable[[Callable[P, RT]], Callable[P, RT]]:
    """Mark a function as the old name of another; calling it warns (specification line 1066).

    The warning is a DeprecationWarning. The marked function carries its message as `__deprecated__`
    (PEP 702).
    """

    def decorate(function: Callable[P, RT]) -> Callable[P, RT]:
        message = f"{function.__name__}() is deprecated; use {new_function_name}()"

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> RT:
            import warnings

            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        call.__deprecated__ = message  # type: ignore[attr-defined]
        return call

    return decorate


def _repeat(pauses: list[float], for_ever: bool) -> Iterator[float]:
    yield from pauses
    while for_ever:
        yield from pauses


def _announce(log_message: tuple[Callable[[str], Any], str] | None) -> None:
    if log_message is not None:
        function, text = log_message
        function(text)


def _worth_another(error: Exception, wanted: list[ErrorCondition]) -> bool:
    matching = [condition for condition in wanted if condition.matches(error)]
    return bool(matching) and all(condition.retry_on_this_condition for condition in matching)


def _codes(error: Exception) -> Iterator[Any]:
    response = getattr(error, "response", None)
    for holder in (error, response):
        for name in _CODE_ATTRIBUTES:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                yield value
    if isinstance(response, dict):
        yield response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _service_code(error: Exception) -> Any:
    """The textual code of a cloud service's answer, as botocore lays it out."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("Error", {}).get("Code")
    return getattr(error, "error_code", None)
