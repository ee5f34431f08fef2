"""The command `mlserve`, and `python -m mlserve`."""

# The clock is first: a deadline counts from here, and the imports below are part of the call.
from mlserve.cli import clock

clock.mark_process_start()

from mlserve.cli.app import main  # noqa: E402

if __name__ == "__main__":
    main()
