"""What the frameworks behind mlserve may write and send: nothing outside of its folders.

Each plugin calls `confine_frameworks` in its package's `__init__`, which runs before any module of
it, and so before it can import a framework; processes that it starts inherit the settings.
"""

from __future__ import annotations

import os

from mlserve.paths import cache_dir


def confine_frameworks() -> None:
    """Switches telemetry off, whatever the user set, and puts Keras' folder into our cache.

    ONNX Runtime 1.29 and later keep a device id and a queue of events under ~/.cache/Microsoft on
    Linux unless this variable says otherwise before it is imported. Keras writes ~/.keras when it
    is imported; a KERAS_HOME of the user's own stays.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("KERAS_HOME", str(cache_dir() / "keras"))
