"""Train a Keras model on a table, and serve it: the price of a house from three numbers.

    python examples/keras_tabular.py
    mlserve export --model houses --weights build/examples/houses.keras
    mlserve up --model houses
    mlserve predict --input 'house=[120, 4, 1995]'
    mlserve down

The data are made up, so training takes seconds. The numbers are normalised inside the model, so
that it takes them as they are.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

FILE = Path("build/examples/houses.keras")


def houses(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return square metres, rooms and year [count, 3], and the prices [count, 1] in thousands."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(30, 250, count)
    rooms = np.clip(np.round(area / 28 + rng.normal(0, 0.7, count)), 1, 9)
    year = rng.integers(1900, 2025, count)
    price = 2.5 * area + 8 * rooms + 0.6 * (year - 1900) + rng.normal(0, 10, count)
    return np.stack([area, rooms, year], axis=1).astype(np.float32), price[:, None]


def main() -> None:
    """Train, and write the model."""
    keras.utils.set_random_seed(1)
    rows, prices = houses(4000, seed=1)
    scale = keras.layers.Normalization()
    scale.adapt(rows)
    model = keras.Sequential(
        [
            keras.Input((3,), name="house"),
            scale,
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1),
            keras.layers.Rescaling(100),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mae")
    model.fit(rows, prices, epochs=12, batch_size=64, verbose=0)
    print(f"mean error: {model.evaluate(*houses(500, seed=2), verbose=0):.1f} thousand")
    FILE.parent.mkdir(parents=True, exist_ok=True)
    model.save(FILE)


if __name__ == "__main__":
    main()
