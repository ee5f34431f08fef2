"""The same ONNX file and image pipeline behind mlserve and behind seven other servers.

Every server does the same work, which is checked before anything is timed. For each round and each
model the servers are measured in turn: seconds until ready, closed loops, memory, overload at three
times their own capacity with a deadline of a second, and, for FastAPI and mlserve, beside a process
that keeps a core busy. Which settings a server runs with is measured first. Writes its part of
docs/benchmarks.md and the plots.

    make bench-peers [ARGS="--servers fastapi,triton --models efficientnet_lite0 --seconds 1"]
"""

from __future__ import annotations

import argparse
import compileall
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from environments import FOLDER, ROOT
from figures import Results
from machine import command, machine, versions
from measuring import DifferentAnswer, Plan, Subject, choose, in_process, measure_round
from page import write_page
from PIL import Image
from running import NotStarted
from servers import PEERS, SERVING, Peer, Settings, mlserve_servers

from mlserve.system import usable_cpus

MODELS = {
    "efficientnet_lite0": (),
    "inception_v3": ("--weights", "random", "--seed", "1"),
}
"""The options of the export of each model."""
SLOW = ("inception_v3",)
"""Models that --short gives two rounds only."""
SIZE, GRAIN, QUALITY = (640, 480), 7.0, 85
"""The photo that is sent: 64 kB."""
IMAGES = 4


def main() -> None:
    """Measure what was asked for, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAME,...")
    parser.add_argument("--servers", default="", metavar="NAME,...", help="default: all")
    parser.add_argument("--clients", default="1,4,16,64", metavar="N,...")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--short",
        action="store_true",
        help="20 minutes on two cores: loops of 1.5 seconds, overload in the first round only, two "
        "rounds of the large model",
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "results.json", metavar="FILE")
    parser.add_argument("--page", action="store_true", help="only write the page from --results")
    parser.add_argument(
        "--keep-settings", action="store_true", help="run servers with the settings of --results"
    )
    options = parser.parse_args()
    if options.page:
        write_page(Results.from_json(json.loads(options.results.read_text())))
        return
    clients = tuple(int(number) for number in options.clients.split(","))
    seconds = 1.5 if options.short else options.seconds
    plan = Plan(clients, seconds, max(3.0, seconds), usable_cpus())
    earlier = None
    if options.keep_settings:
        earlier = Results.from_json(json.loads(options.results.read_text()))
    results = Results(machine(), versions(), command())
    _compile_sources()
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        for name in options.models.split(","):
            subject = subject_of(name, Path(folder))
            _measure(results, subject, plan, _wanted(options.servers), options, earlier)
    write_page(results)


def _compile_sources() -> None:
    """Compile what the servers import from this tree, as pip does where it installs a package.

    Where PYTHONDONTWRITEBYTECODE is set, each start would compile all of it: 0.3 s of mlserve's.
    """
    for folder in (ROOT / "mlserve", ROOT / "plugins", SERVING):
        compileall.compile_dir(folder, quiet=1)


def _wanted(names: str) -> list[Peer]:
    """Return the servers of those names, all if there are none. Exits when a name is of none."""
    known = (*mlserve_servers(usable_cpus()), *PEERS)
    parts = [name.strip().lower() for name in names.split(",") if name.strip()] or [""]
    unknown = [part for part in parts if not any(_is_named(peer, part) for peer in known)]
    if unknown:
        names = ", ".join(dict.fromkeys(peer.name.partition(",")[0].lower() for peer in known))
        raise SystemExit(f"{unknown[0]!r} is not a server of this comparison; choose {names}")
    return [peer for peer in known if any(_is_named(peer, part) for part in parts)]


def _is_named(peer: Peer, name: str) -> bool:
    return name in {"", peer.name.lower(), peer.name.lower().partition(",")[0]}


def _measure(
    results: Results,
    subject: Subject,
    plan: Plan,
    peers: list[Peer],
    options: argparse.Namespace,
    earlier: Results | None,
) -> None:
    settings = {}
    for peer in peers:
        try:
            if not peer.is_built:
                raise NotStarted("it is not built: python benchmarks/peers/environments.py")
            settings[peer] = _settings(peer, subject, plan, results, earlier)
        except NotStarted as error:
            _leave_out(results, peer, error)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as photo:
        Path(photo.name).write_bytes(subject.images[0])
        rounds = options.rounds
        if options.short and subject.name in SLOW:
            rounds = min(rounds, 2)
        for number in range(rounds):
            results.rounds += in_process(subject, plan, Path(photo.name))
            in_turn = list(settings)[:: -1 if number % 2 else 1]
            this = replace(plan, overload_seconds=0) if options.short and number else plan
            for peer in in_turn:
                try:
                    results.rounds.append(measure_round(peer, settings[peer], subject, this))
                except (NotStarted, DifferentAnswer) as error:
                    _leave_out(results, peer, error)
                    continue
                _say(results, number, rounds)
                _keep(results, options.results)


def _settings(
    peer: Peer, subject: Subject, plan: Plan, results: Results, earlier: Results | None
) -> Settings:
    known = earlier.settings(subject.name, peer.name) if earlier else None
    for offered in peer.settings(plan.cpus):
        if str(offered) == known:
            assert earlier is not None
            results.trials += earlier.trials_of(subject.name, peer.name)
            return offered
    chosen, trials = choose(peer, subject, plan)
    results.trials += trials
    if trials:
        print(f"{subject.name}: {peer.name} runs with {chosen}", flush=True)
    return chosen


def _leave_out(results: Results, peer: Peer, error: Exception) -> None:
    results.left_out[peer.name] = str(error).splitlines()[0]
    print(f"{peer.name} is left out: {error}", file=sys.stderr, flush=True)


def _say(results: Results, number: int, rounds: int) -> None:
    last = results.rounds[-1]
    rates = "  ".join(f"{n}: {each.rate:.0f}/s" for n, each in last.closed.items())
    share = f"{last.overload.share:.2f} in time" if last.overload else ""
    memory = f"{(last.pss or 0) / 1e6:.0f} MB"
    print(
        f"{last.model} {number + 1}/{rounds} {last.server:<20} ready {last.ready:.1f} s, "
        f"{memory}, {rates}, {share}",
        flush=True,
    )


def _keep(results: Results, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results.to_json(), indent=1) + "\n")


def subject_of(name: str, folder: Path, exported: Path | None = None) -> Subject:
    """Export the model, if it is not, and ask it in process about each photo."""
    if name not in MODELS:
        raise SystemExit(f"{name!r} is not a model of this comparison: {', '.join(MODELS)}")
    exported = exported or _exported(name, folder)
    images = tuple(photo(number) for number in range(IMAGES))
    sys.path.append(str(SERVING))
    from classifier import Model

    model = Model(exported, usable_cpus())
    return Subject(name, exported, images, tuple(model.classify(image) for image in images))


def _exported(name: str, folder: Path) -> Path:
    argv = [sys.executable, "-m", "mlserve", "export", "--backend", "onnxruntime"]
    done = subprocess.run(
        [*argv, "--model", name, *MODELS[name]],
        env={**os.environ, "MLSERVE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(done.stdout.splitlines()[0])


def photo(number: int) -> bytes:
    """Return a JPEG of 64 kB: the example's horse, larger, moved and with film grain."""
    horse = Image.open(ROOT / "examples" / "horse.jpg").convert("RGB").resize(SIZE, Image.BICUBIC)
    pixels = np.roll(np.asarray(horse, np.float32), 90 * number, axis=1)
    grain = np.random.default_rng(number).normal(0, GRAIN, (*pixels.shape[:2], 1))
    file = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=QUALITY
    )
    return file.getvalue()


if __name__ == "__main__":
    main()
