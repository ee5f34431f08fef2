"""Entry point of the `mlserve` command and of `python -m mlserve`."""

# The clock comes first: deadlines count from here, and the imports below are part of the call.
from mlserve.cli import clock

clock.mark_process_start()

from mlserve.cli.app import main  # noqa: E402

if __name__ == "__main__":
    main()
