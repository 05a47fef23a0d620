"""A SQLite connection whose statements are steps, also those of its cursors; queries are none."""

from __future__ import annotations

import sqlite3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Steps(Protocol):
        def step(self, call: str, path: str, make: Callable[[], Any]) -> Any: ...


def connection_class(steps: Steps, path: str) -> type[sqlite3.Connection]:
    """Return the class of connections to the database at a path."""

    def statement(sql: str, make: Callable[[], Any]) -> Any:
        first = sql.split(None, 1)[:1]
        return make() if first and first[0].upper() == "SELECT" else steps.step("execute", path, make)

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *values: Any) -> Any:
            run = super().execute
            return statement(sql, lambda: run(sql, *values))

        def executemany(self, sql: str, values: Any) -> Any:
            run = super().executemany
            return statement(sql, lambda: run(sql, values))

        def executescript(self, sql: str) -> Any:
            run = super().executescript
            return statement(sql, lambda: run(sql))

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *values: Any) -> Any:
            return self.cursor().execute(sql, *values)

        def executemany(self, sql: str, values: Any) -> Any:
            return self.cursor().executemany(sql, values)

        def executescript(self, sql: str) -> Any:
            return self.cursor().executescript(sql)

        def commit(self) -> None:
            if self.in_transaction:
                steps.step("commit", path, super().commit)

        def rollback(self) -> None:
            if self.in_transaction:
                steps.step("rollback", path, super().rollback)

        def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
            if kind is not None:
                self.rollback()
                return False
            try:
                self.commit()
            except BaseException:
                self.rollback()
                raise
            return False

    return Connection
