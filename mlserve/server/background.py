"""Work that cannot be interrupted, and how the process ends while it still runs."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

from mlserve.errors import ExitCode

Result = TypeVar("Result")


def end_process(code: ExitCode) -> NoReturn:
    """Ends the process now, with threads still running."""
    logging.shutdown()
    os._exit(int(code))


async def in_daemon_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns, run on a daemon thread.

    For work that can take minutes and cannot be interrupted, such as loading a model or a look into
    a folder of a network share that is away: the threads of `asyncio.to_thread` are waited for when
    the process ends.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def finish(result: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = work(), None
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            outcome = None, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, *outcome)

    threading.Thread(target=run, name="mlserve-load", daemon=True).start()
    return await done
