"""A second version beside the one that is served: as its shadow, or with a share of the requests.

What `--shadow` and `--split` say, as data. A version that is named there is never the latest: what
names no version is answered by the others, unless the version is pinned or there is no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlserve.errors import UsageError, shortened
from mlserve.options import HelpPanel, Options, option

SHADOW = option(
    HelpPanel.ROLLOUT,
    "A version of the model, or the endpoint of another server, that is asked the same questions "
    "while there is room. Its answers are compared, and never returned.",
    unit="version|endpoint",
)
SHADOW_TOKEN_FILE = option(
    HelpPanel.ROLLOUT, "File with the token of the server that --shadow names."
)
SPLIT = option(
    HelpPanel.ROLLOUT,
    "A version that answers a share of the requests which name none, as v2=5%. It ends by itself "
    "if that version is worse.",
    unit="version=share",
)
DIFFER = 0.01
"""The share of answers that may differ under a split, if it says nothing else."""
_VERSION = re.compile(r"v?([0-9]{1,18})")
_HOW = "give for example --split v2=5%, or --split v2=5%,differ=3%,check=50%"
_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Split:
    """The version that gets `share` of the requests, above 0 and below 1.

    It ends if more than `differ` of its answers are not those of the version that it replaces,
    which is asked too for the part `check` of its requests. `differ` 1 allows any answer.
    """

    version: int
    share: float
    differ: float = DIFFER
    check: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read `v2=5%`, with `,differ=SHARE` and `,check=SHARE` behind it. Raises UsageError."""
        given = [part.partition("=")[::2] for part in text.replace(" ", "").split(",")]
        (version, share), *others = given
        match = _VERSION.fullmatch(version)
        if match is None:
            raise UsageError(f"--split {shortened(text)!r} names no version", hint=_HOW)
        known = {"differ": DIFFER, "check": 1.0}
        for name, value in others:
            if name not in known:
                raise UsageError(
                    f"--split does not know {shortened(name)!r}: there are differ and check",
                    hint=_HOW,
                )
            known[name] = _share(name, value)
        part = _share("its share", share)
        if not 0 < part < 1:
            raise UsageError(
                f"the share of --split must be above 0 % and below 100 %, not {shortened(share)}",
                hint="all requests go to a version with `mlserve models use`",
            )
        return cls(int(match[1]), part, **known)


def _share(what: str, text: str) -> float:
    """Read `5%` or `0.05`: a share from 0 to 1. Raises UsageError."""
    try:
        share = float(text[:-1]) / _PERCENT if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(
            f"{what} in --split must be a share such as 5% or 0.05, not {shortened(text)!r}",
            hint=_HOW,
        )
    return share


@dataclass(frozen=True, slots=True)
class RolloutOptions(Options):
    """What a model's second version is for. Raises UsageError for values that cannot be read."""

    shadow: str | None = field(default=None, metadata=SHADOW)
    shadow_token_file: Path | None = field(default=None, metadata=SHADOW_TOKEN_FILE)
    split: str | None = field(default=None, metadata=SPLIT)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.shadow is not None and self.shadow_version is None:
            _require_endpoint(self.shadow)
        if self.shadow_token_file is not None and self.shadow_endpoint is None:
            raise UsageError(
                "--shadow-token-file is for --shadow ENDPOINT",
                hint="name the other server with --shadow, or leave the token out",
            )
        if self.split is not None:
            Split.parse(self.split)
            if self.shadow is not None:
                raise UsageError(
                    "--shadow and --split do not go together: a split compares by itself",
                    hint="begin with --shadow; go on with --split once they agree",
                )

    @property
    def shadow_version(self) -> int | None:
        """The version that is the shadow; None without one, or if it is another server."""
        match = _VERSION.fullmatch(self.shadow or "")
        return None if match is None else int(match[1])

    @property
    def shadow_endpoint(self) -> str | None:
        """The server that is the shadow; None without one, or if it is a version."""
        return self.shadow if self.shadow_version is None else None

    @property
    def split_rule(self) -> Split | None:
        """What the split says; None without one."""
        return None if self.split is None else Split.parse(self.split)

    @property
    def split_version(self) -> int | None:
        """The version that gets a share of the requests; None without a split."""
        rule = self.split_rule
        return None if rule is None else rule.version

    @property
    def aside(self) -> int | None:
        """The version that is not the latest, whatever its number; None if there is none."""
        return self.shadow_version if self.split is None else self.split_version

    @property
    def flags(self) -> Iterator[str]:
        """The flags that name a second version of the model, for those who cannot serve it."""
        if self.shadow_version is not None:
            yield "--shadow VERSION"
        if self.split is not None:
            yield "--split"


def _require_endpoint(text: str) -> None:
    """Raise UsageError for what cannot be an endpoint; the client checks the rest."""
    if ":" not in text or not text.isprintable() or " " in text:
        raise UsageError(
            f"--shadow {shortened(text)!r} is neither a version nor an endpoint",
            hint="give a number such as 2, host:port (gRPC), or http://host:port (REST)",
        )


NO_ROLLOUT = RolloutOptions()
NO_LADDER = (
    "a second version does not go with a ladder, which is of fixed versions",
    "leave one of them out; --shadow ENDPOINT goes with a ladder",
)
"""The message and the hint where both are asked for."""
