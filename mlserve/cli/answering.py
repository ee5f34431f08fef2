"""Asks about one image after the other, and shows each answer or error as it comes."""

from __future__ import annotations

from dataclasses import replace

from mlserve.cli.inputs import Inputs, open_input
from mlserve.cli.output import note
from mlserve.cli.printing import Printer
from mlserve.cli.progress import ProgressLine
from mlserve.client import Client, Prediction
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError

_MEANINGLESS = (
    "warning: the model has random weights, its answers mean nothing "
    "(mlserve export without --weights random gives it real ones)"
)


class Questioner:
    """Asks one client about several images in turn; `exit_code` is that of the first error.

    `is_random` says that the server is known to serve random weights, whatever its answers say.
    """

    def __init__(
        self, client: Client, show: Printer, *, top_k: int | None, is_random: bool
    ) -> None:
        self._client = client
        self._show = show
        self._top_k = top_k
        self._is_random = is_random
        self._is_warned = False
        self._shortfalls: set[str] = set()
        self.exit_code = 0

    def ask_all(self, inputs: Inputs, deadline: Deadline) -> None:
        """Asks about every image; an error that the printer does not take is raised.

        `deadline` is that of the first image; each of the others has one as long, counted from its
        turn.
        """
        progress = ProgressLine(len(inputs.names) if inputs.is_batch else 0)
        try:
            for done, name in enumerate(inputs.names):
                progress.draw(done, name)
                due = Deadline.after(deadline.timeout) if done else deadline
                outcome = self._ask(name, due)
                progress.clear()
                self._report(name, outcome)
        finally:
            progress.clear()
        self._show.finish()

    def _ask(self, name: str, due: Deadline) -> Prediction | MlserveError:
        try:
            return self._client.predict(open_input(name), timeout=due, top_k=self._top_k)
        except MlserveError as error:
            return error

    def _report(self, name: str, outcome: Prediction | MlserveError) -> None:
        if isinstance(outcome, MlserveError):
            self.exit_code = self.exit_code or int(outcome.exit_code)
            self._show.error(name, outcome)
            return
        if self._is_random or outcome.has_random_weights:
            outcome = replace(outcome, has_random_weights=True)
            self._warn()
        if outcome.shortfall:
            self._tell(len(outcome.scores), outcome.shortfall)
        self._show.prediction(name, outcome)

    def _tell(self, count: int, shortfall: str) -> None:
        """Says once for each reason that there are fewer scores than were asked for."""
        if shortfall not in self._shortfalls:
            note(f"note: {count} of the {self._top_k} best labels, as {shortfall}")
        self._shortfalls.add(shortfall)

    def _warn(self) -> None:
        if not self._is_warned:
            note(_MEANINGLESS)
        self._is_warned = True
