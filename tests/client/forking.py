"""What test_forks.py runs in a process of its own: a client that is used, forked and used again.

`python forking.py HOW ENDPOINT` prints the exit codes of the children, and what went wrong.
"""

# ruff: noqa: BLE001, T201  it prints, and tells of whatever happens in a child
from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable

from mlserve import AsyncClient, Client, Retries
from mlserve.errors import InvalidInput, Overloaded

FINE, BAD = b"fine", b"bad"
LARGE = b"fine" + bytes(2**20)


def expect(client: Client, image: bytes, *, is_bad: bool = False) -> None:
    """Asks; fails when the answer is that of another question."""
    try:
        label = client.predict(image, timeout=10).label
    except InvalidInput:
        assert is_bad, "the answer of somebody else's question"
    else:
        assert (label, is_bad) == ("sorrel", False), "the answer of somebody else's question"


def forked(work: Callable[[], None]) -> int:
    """The pid of a child that does the work; its exit code is 0 when that went well."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except Exception:
        traceback.print_exc()
    os._exit(code)


def codes(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def at_once(client: Client) -> None:
    """Parent, children and grandchildren ask at the same time, each something else."""

    def child() -> None:
        pids = [forked(lambda: expect(client, LARGE))]
        for _ in range(20):
            expect(client, BAD, is_bad=True)
        assert codes(pids) == [0]

    pids = [forked(child) for _ in range(3)]
    for _ in range(60):
        expect(client, FINE)
    print(codes(pids))


def under_load(client: Client) -> None:
    """A process forks while other threads of it are in the middle of calls."""
    is_over = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            while not is_over.is_set():
                expect(client, FINE)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    found = [codes([forked(lambda: expect(client, BAD, is_bad=True))])[0] for _ in range(12)]
    is_over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    print(found)


def _pooled(image: bytes) -> str:
    return _shared[0].predict(image, timeout=10).label


_shared: list[Client] = []


def in_a_pool(client: Client) -> None:
    """multiprocessing with the start method `fork`."""
    _shared.append(client)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        labels = pool.map(_pooled, [FINE] * 12)
    assert labels == ["sorrel"] * 12, labels
    print([0])


def before_workers(client: Client) -> None:
    """A server that forks its workers, as gunicorn does: each takes requests and asks.

    The workers end by themselves, with all that the interpreter does at its end.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pids = []
        for _ in range(2):
            pid = os.fork()
            if not pid:
                connection, _ = listener.accept()
                connection.sendall(client.predict(FINE, timeout=10).label.encode())
                connection.close()
                sys.exit(0)
            pids.append(pid)
        for _ in pids:
            with socket.create_connection(listener.getsockname()) as visitor:
                assert visitor.recv(100) == b"sorrel"
        print(codes(pids))


def spared(client: Client) -> None:
    """What a process learnt of a server that refuses all, the processes that it forks know."""

    def ask() -> None:
        for _ in range(1000):
            try:
                client.predict(FINE, timeout=20)
            except Overloaded as error:
                if "throttled" in error.details:
                    return
        raise AssertionError("every call was sent")

    ask()
    print(codes([forked(ask) for _ in range(3)]))


def of_async(endpoint: str) -> None:
    """An AsyncClient, forked inside of a running loop, and then used in a second loop."""
    client = AsyncClient(endpoint)

    async def ask() -> None:
        assert (await client.predict(FINE, timeout=10)).label == "sorrel"

    async def main() -> None:
        await ask()
        pids = [forked(lambda: asyncio.run(ask())) for _ in range(2)]
        await ask()
        print(codes(pids))

    asyncio.run(main())
    asyncio.run(main())


def main() -> None:
    how, endpoint = sys.argv[1:]
    if how == "of_async":
        of_async(endpoint)
        return
    if how == "spared":
        spared(Client(endpoint, model="stranger", api="tfs", retries=Retries(1)))
        return
    client = Client(endpoint)
    expect(client, FINE)
    globals()[how](client)
    expect(client, FINE)


if __name__ == "__main__":
    main()
