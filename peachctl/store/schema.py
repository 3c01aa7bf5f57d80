"""The schema: numbered files `sql/<dialect>/NNNN_name.sql`, applied once each, in order.

All of it is one transaction where the database can do that. Where each change of the schema is a transaction of its
own (MySQL), every statement of a file may be repeated, and what an interruption left is finished the next time.

The last number applied stands in `peach_meta`, written by the file itself, so that the SQL that is printed is all
that is to be done. A database that holds the table of 2017 and none of our own is adopted: where a file has a variant
`NNNN_name.adopt.sql`, that one is applied in its stead.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peachctl.errors import ConfigError
from peachctl.failpoint import fail_point

COLUMNS = (
    "id",
    "user",
    "execution_file",
    "workflow_json",
    "status",
    "progress",
    "original_workflow_file",
    "sending_date",
    "finished_date",
    "priority",
    "output_file",
)
"""The columns of the queue table that clients unpack by position (contract, "The table `queue`")."""

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Database(Protocol):
    """What an adapter shows of a database for its schema to be seen to.

    name: how people know it (a path, a URL without password). dialect: the folder below `sql/`. frame: SQL that
    stands before and behind what is printed.
    """

    @property
    def name(self) -> str: ...

    @property
    def dialect(self) -> str: ...

    @property
    def queue_table(self) -> str: ...

    @property
    def frame(self) -> tuple[str, str]: ...

    def quoted(self, identifier: str) -> str:
        """An identifier as it stands in this dialect's SQL."""
        ...

    def meta(self) -> dict[str, str]:
        """`peach_meta`, empty where there is no such table, or nothing in it yet."""
        ...

    def columns(self) -> tuple[str, ...]:
        """Of the queue table, in order; empty where there is no such table."""
        ...

    def effort(self) -> str:
        """What people should know of the adoption of this table before they begin it, or ''."""
        ...

    def extras(self) -> Sequence[str]:
        """Statements that make what others have hung on the queue table and what adopting it would drop."""
        ...

    def needed(self, statement: str) -> bool:
        """False for a statement that cannot be repeated and was executed before."""
        ...

    def changing(self) -> AbstractContextManager[None]:
        """One change of the schema at a time: whoever else wants to make one waits until the block is left."""
        ...

    def execute(self, statement: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One numbered file. adopt: the variant for a database of 2017, or None."""

    number: int
    name: str
    path: Path
    adopt: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done (`pending`) or was done (`apply`): nothing where steps is empty.

    version: of the schema once it is done. steps: one line each, for people. statements: SQL, each with its `;`.
    frame: SQL before and behind them where people apply it themselves.
    """

    database: str
    version: int
    steps: list[str]
    statements: list[str]
    adopts: bool = False
    frame: tuple[str, str] = ("", "")


def table_name(name: str) -> str:
    """The name of the queue table, if it is one: it becomes part of SQL. Raises ConfigError."""
    if not _TABLE.fullmatch(name) or name.lower().startswith(("peach_", "sqlite_")):
        raise ConfigError(
            f"database.queue_table: {name!r} cannot be the name of the queue table",
            "letters, digits and _, no digit in front, at most 64 of them, not beginning with peach_ or sqlite_",
        )
    return name


def sql_folder(dialect: str) -> Path:
    """Where the files of a dialect are: in the installed package, else in the checkout. Raises FileNotFoundError."""
    package = Path(__file__).parents[1]
    for folder in (package / "sql" / dialect, package.parent / "sql" / dialect):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder sql/{dialect} in this installation")


def files(dialect: str) -> list[SchemaFile]:
    """The numbered files of a dialect in order: 1, 2, 3 and on."""
    found = []
    for path in sorted(sql_folder(dialect).iterdir()):
        match = _FILE.fullmatch(path.name)
        if match:
            adopt = path.with_suffix(".adopt.sql")
            found.append(SchemaFile(int(match[1]), match[2], path, adopt if adopt.exists() else None))
    if [one.number for one in found] != list(range(1, len(found) + 1)):
        raise FileNotFoundError(f"the files of sql/{dialect} are not numbered 1 to {len(found)}")
    return found


def statements(path: Path, queue_table: str, quoted: str) -> list[str]:
    """The statements of a file with the queue table's name in place; comments stay with what follows them."""
    text = path.read_text(encoding="utf-8").replace("{queue}", quoted).replace("{queue_name}", queue_table)
    parts = re.split(r"(?<=;)\n", text)
    return [part.strip() for part in parts if part.strip()]


def pending(database: Database) -> Plan:
    """What is to be done to this database. Changes nothing.

    Raises ConfigError where the schema is newer than this program, or the table is none of Peach's.
    """
    known = files(database.dialect)
    meta = database.meta()
    has = int(meta["schema"]) if "schema" in meta else 0
    newest = known[-1].number
    if has > newest:
        raise ConfigError(
            f"{database.name}: its schema has version {has}, this peachctl knows versions up to {newest}",
            "use the newer peachctl that upgraded it",
        )
    if meta and meta.get("queue_table") != database.queue_table:
        raise ConfigError(
            f"{database.name}: its queue table is {meta.get('queue_table')!r}, the configuration says"
            f" {database.queue_table!r}",
            f"set database.queue_table to {meta.get('queue_table')!r}",
        )
    columns = database.columns() if not has else ()
    if columns and columns != COLUMNS:
        raise ConfigError(
            f"{database.name}: the table {database.queue_table!r} has the columns {', '.join(columns)}; a queue of"
            f" Peach has {', '.join(COLUMNS)}",
            "set database.queue_table to the name of another table",
        )
    # Begun and interrupted, an adoption is one still.
    adopts = not has and ("adopted" in meta if meta else bool(columns))
    steps, todo = [], []
    for file in known[has:]:
        adopt = file.adopt if adopts else None
        steps.append(
            f"adopt the table {database.queue_table} of 2017{database.effort()}"
            if adopt
            else f"apply sql/{database.dialect}/{file.path.name}"
        )
        todo += statements(adopt or file.path, database.queue_table, database.quoted(database.queue_table))
        if adopt:
            todo += database.extras()
    if adopts:
        todo.append("REPLACE INTO peach_meta (name, value) VALUES ('adopted', '1');")
    return Plan(database.name, newest, steps, [one for one in todo if database.needed(one)], adopts, database.frame)


def apply(database: Database) -> Plan:
    """Does what is to be done; whoever comes second finds nothing left. Raises as `pending`."""
    plan = pending(database)
    if not plan.steps:
        return plan
    with database.changing():
        plan = pending(database)
        for statement in plan.statements:
            database.execute(statement)
            fail_point("schema:step")
    return plan


def sql_text(plan: Plan) -> str:
    """The SQL of a plan as it is printed for people who apply it themselves."""
    if not plan.statements:
        return "-- nothing is to be done\n"
    head, tail = plan.frame
    return "\n\n".join(part for part in (head, *plan.statements, tail) if part) + "\n"
