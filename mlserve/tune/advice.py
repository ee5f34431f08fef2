"""What `mlserve up` takes from a tuning: its options, unless the user has chosen others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from mlserve.errors import MlserveError, ModelLoadFailed, PluginError
from mlserve.launch.records import ServerRecord, Tell, read_records
from mlserve.launch.running import server_of
from mlserve.launch.up import UpRequest
from mlserve.load_options import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.options import flag_of
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import EMBEDDED
from mlserve.tune.candidates import tuned_options, tuned_part
from mlserve.tune.machine import Machine
from mlserve.tune.records import Tuning, tunings

_AGAIN = "measure again: mlserve tune"


def advised(request: UpRequest, given: Collection[str], tell: Tell) -> UpRequest:
    """Return the request with the options that were tuned for its model here, and tell so.

    `given` are the names of the options that the user has set, which always count: beside another
    value of a tuned option, a tuning is not used, as the mixture was never measured. Only mlserve's
    own server of one model is tuned, and one that runs already stays as it is.
    """
    if request.launcher != EMBEDDED or request.serving.config is not None:
        return request
    tuning = _tuning_of(request.serving.only, tell)
    if tuning is None or not tuning.options.changed:
        return request
    said = f"tuned on {tuning.date}: {tuning.flags} (mlserve tune)"
    other = _other_choice(tuning, request.serving.only.options, given)
    if other is not None:
        tell(f"{said}; not used, as {flag_of(other)} is given")
        return request
    running = _running(request)
    if running is not None:
        options = running.serving.only.options
        if tuned_part(options) != tuning.options:
            tell(f"{said}; {running.name} runs already: they hold from its next start")
        return _with_options(request, options)
    tell(said)
    tuned = replace(request.serving.only.options, **tuning.options.changed)
    return _with_options(request, tuned)


@contextmanager
def naming_tuned(request: UpRequest) -> Iterator[None]:
    """Say of a model that does not load that its options may come from a tuning."""
    try:
        yield
    except (ModelLoadFailed, PluginError) as error:
        if request.serving.config is None and _is_tuned(request.serving.only):
            hint = "" if error.hint is None else f"{error.hint}; or "
            error.hint = f"{hint}drop the options that were tuned: mlserve tune --forget"
        raise


def _is_tuned(model: ServedModel) -> bool:
    options = tuned_part(model.options)
    try:
        return any(
            each.is_of(model) and each.options == options != DEFAULT_LOAD_OPTIONS
            for each in tunings()
        )
    except MlserveError:
        return False


def _tuning_of(model: ServedModel, tell: Tell) -> Tuning | None:
    """Return the tuning that holds for the model here; tell why those that there are do not."""
    try:
        kept = [each for each in tunings() if each.is_of(model)]
    except MlserveError as error:  # no reason not to serve
        tell(f"warning: {error.message}; no tuned options are used")
        return None
    if not kept:
        return None
    here = Machine.here()
    reasons = [each.why_unfit(model, here) for each in kept]
    if None in reasons:
        return kept[reasons.index(None)]
    tell(f"the tuning of {kept[-1].date} is not used: {reasons[-1]}; {_AGAIN}")
    return None


def _other_choice(tuning: Tuning, options: LoadOptions, given: Collection[str]) -> str | None:
    """Return the name of a tuned option that the user has set to another value, if any."""
    for option in tuned_options():
        if option.name in given and (
            getattr(options, option.name) != getattr(tuning.options, option.name)
        ):
            return option.name
    return None


def _running(request: UpRequest) -> ServerRecord | None:
    """Return the server of that name that runs and differs in nothing but tuned options."""
    wanted = _untuned(request.serving)
    for record in read_records(lambda _: None):
        if record.name == wanted.name and record.launcher == EMBEDDED:
            its = record.serving
            is_same = its.config is None and wanted.is_served_by(_untuned(its))
            return record if is_same and server_of(record).is_running() else None
    return None


def _untuned(serving: Serving) -> Serving:
    """Return the same with every tuned option left to the backend."""
    plain = {item.name: item.default for item in tuned_options()}
    return _serving_with(serving, replace(serving.only.options, **plain))


def _with_options(request: UpRequest, options: LoadOptions) -> UpRequest:
    return replace(request, serving=_serving_with(request.serving, options))


def _serving_with(serving: Serving, options: LoadOptions) -> Serving:
    return replace(serving, models=(replace(serving.only, options=options),))
