"""Calls with mlserve's own client, from a process of its own: `own_client.py` starts several.

    python callers.py JSON

`JSON` has the fields of `Plan`. Prints `ready` after a first call, reads the moment of the start
from standard input, and prints one JSON object: the ends of the calls, and the CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from served import jpeg

from mlserve import AsyncClient
from mlserve.bench.arrivals import Arrivals
from mlserve.bench.connection import kind_of
from mlserve.bench.tally import ANSWERED
from mlserve.errors import MlserveError

_PATIENT = 60.0
NOT_ENDED = "not_ended"
"""The kind of a call that takes twice as long as its timeout."""


@dataclass(frozen=True)
class Plan:
    """What one process does: it is number `index` of `count`.

    `rate` is that of all processes, in calls a second; 0 is a closed loop of `clients` in each of
    them. Times are in seconds.
    """

    endpoint: str
    model: str
    rate: float
    clients: int
    seconds: float
    timeout: float
    index: int = 0
    count: int = 1
    seed: int = 0


@dataclass
class Calls:
    """The calls of this process: each as (planned, ended, kind), in seconds from the start.

    `start` is of the monotonic clock.
    """

    plan: Plan
    client: AsyncClient
    start: float = 0.0
    image: bytes = field(default_factory=jpeg)
    ends: list[tuple[float, float, str]] = field(default_factory=list)
    running: set[asyncio.Task[None]] = field(default_factory=set)

    async def call(self, planned: float) -> None:
        """Call once."""
        kind = NOT_ENDED
        try:
            await self.client.predict(self.image, timeout=self.plan.timeout)
            kind = ANSWERED
        except MlserveError as error:
            kind = kind_of(type(error))
        finally:
            self.ends.append((planned, time.monotonic() - self.start, kind))

    async def closed(self) -> None:
        """Call one after the other until the time is over."""
        while (now := time.monotonic() - self.start) < self.plan.seconds:
            await self.call(now)

    async def open(self) -> None:
        """Call at random moments, whatever becomes of the calls before."""
        plan = self.plan
        moments = Arrivals().moments(plan.rate, plan.seconds, plan.seed)
        for number, moment in enumerate(moments):
            if number % plan.count != plan.index:
                continue
            wait = moment - (time.monotonic() - self.start)
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.call(moment))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
        left = plan.seconds + 2 * plan.timeout - (time.monotonic() - self.start)
        if self.running:
            await asyncio.wait(self.running, timeout=max(0.0, left))
        late = list(self.running)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def run(plan: Plan) -> dict[str, Any]:
    """Run the plan, and return what became of it."""
    async with AsyncClient(plan.endpoint, model=plan.model) as client:
        calls = Calls(plan, client)
        await client.predict(calls.image, timeout=_PATIENT)
        print("ready", flush=True)
        calls.start = float(await asyncio.to_thread(sys.stdin.readline))
        await asyncio.sleep(max(0.0, calls.start - time.monotonic()))
        began = time.process_time()
        if plan.rate:
            await calls.open()
        else:
            await asyncio.gather(*(calls.closed() for _ in range(plan.clients)))
        return {"ends": calls.ends, "cpu": time.process_time() - began}


def main() -> None:
    """Run the plan of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", help="the fields of Plan, as JSON")
    plan = Plan(**json.loads(parser.parse_args().plan))
    print(json.dumps(asyncio.run(run(plan))))


if __name__ == "__main__":
    main()
