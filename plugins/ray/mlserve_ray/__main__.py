"""Run the front of a server on Ray: `python -m mlserve_ray`, started by `mlserve up`, not by users.

Its flags are those of `mlserve.server`, those of `ClusterOptions`, and `--name`.
"""

from __future__ import annotations

import asyncio
import sys

from mlserve.errors import ExitCode, MlserveError
from mlserve.server.app import log_error
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import LogFormat
from mlserve_ray.flags import FrontOptions, parse
from mlserve_ray.front import Front


def main() -> None:
    """Run the front and exit with its exit code."""
    try:
        options = parse(sys.argv[1:])
    except MlserveError as error:
        log_to_stderr(LogFormat.TEXT)
        sys.exit(int(log_error(error)))
    log_to_stderr(options.settings.log_format)
    sys.exit(int(asyncio.run(_run_front(options))))


async def _run_front(options: FrontOptions) -> ExitCode:
    try:
        await Front(options).run()
    except MlserveError as error:
        return log_error(error)
    return ExitCode.OK


if __name__ == "__main__":
    main()
