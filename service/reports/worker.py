"""The process that makes the reports of a service: it takes what is asked from a pipe, and puts the answer there as JSON."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from service import database

if TYPE_CHECKING:
    from pydantic import BaseModel

_LESS = 10  # of priority, in steps of `nice`: a tenth of what whoever decides tickets gets of a busy processor, but that much
Work = Literal["report", "tickets", "last_week"]


def run(line: Connection, database_url: str, seconds: float) -> None:
    """Answer what comes over `line` until it is closed. `seconds`: how long a statement of the database may take."""
    os.nice(_LESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; whoever started this one ends it
    threading.Thread(target=_end_with_the_parent, name="parent-watch", daemon=True).start()
    engine = database.connect(database_url)
    while True:
        try:
            what, arguments = line.recv()
        except EOFError:
            return
        line.send(_answer(engine, what, arguments, seconds))


def _end_with_the_parent() -> None:
    # The line tells only one that waits for it. One that is at work would go on for nobody.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(engine: sa.Engine, what: Work, arguments: tuple[Any, ...], seconds: float) -> tuple[str, bytes]:
    """How it went (``made``, ``storage``, ``failed``), and the answer or the name of the failure: an error's text may be a ticket's."""
    try:
        with engine.connect() as connection:
            read_only(connection, seconds)
            return "made", _make(connection, what, arguments).model_dump_json().encode()
    except SQLAlchemyError:
        return "storage", b""
    except Exception as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
        return "failed", f"{type(error).__name__} at {where}".encode()


def _make(connection: sa.Connection, what: Work, arguments: tuple[Any, ...]) -> "BaseModel":
    # Loaded when the first is asked for, in this process alone.
    if what == "report":
        from service.reports.report import misroutes

        return misroutes(connection, *arguments)
    if what == "tickets":
        from service.reports.tickets import tickets_behind

        return tickets_behind(connection, *arguments)
    from service.reports.drift import last_week

    return last_week(connection, *arguments)


def read_only(connection: sa.Connection, seconds: float) -> None:
    """Let this connection's transaction read for so long, and not write."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only=ON")
    else:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
