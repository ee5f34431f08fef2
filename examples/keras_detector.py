"""Train a detector with several outputs, and serve it with ONNX Runtime: it finds a shape.

    python examples/keras_detector.py
    mlserve export --backend onnxruntime --model shapes --weights build/examples/shapes.keras
    mlserve up --model shapes
    mlserve predict --input image=@build/examples/image.npy
    mlserve down

An image has one square or one disc. The answer has a box (left, top, right, bottom, as parts of the
image's size), a score and a class: 0 is a square, 1 a disc. The script also writes `image.npy`, the
image that is asked about.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

FOLDER = Path("build/examples")
SIZE = 32


def images(count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return uint8 [count, SIZE, SIZE, 3], and the `boxes` [count, 4] and `discs` [count, 1]."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, SIZE, SIZE, 3), np.uint8)
    boxes = np.empty((count, 4), np.float32)
    discs = rng.integers(0, 2, (count, 1))
    down, right = np.mgrid[:SIZE, :SIZE]
    for index in range(count):
        width = int(rng.integers(8, 17))
        left, top = rng.integers(0, SIZE - width, 2)
        x, y = right - left - (width - 1) / 2, down - top - (width - 1) / 2
        distance = np.hypot(x, y) if discs[index] else np.maximum(abs(x), abs(y))
        pixels[index][distance <= width / 2] = rng.integers(150, 256, 3)
        boxes[index] = np.array([left, top, left + width, top + width]) / SIZE
    return pixels, {"boxes": boxes, "discs": discs}


def detector() -> tuple[keras.Model, keras.Model]:
    """Return the model to train, and the one to serve, which share their weights."""
    layers, ops = keras.layers, keras.ops
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    found = layers.Rescaling(1 / 255)(image)
    for width in (16, 32, 32):
        found = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(found)
    found = layers.Dense(64, activation="relu")(layers.Flatten()(found))
    boxes = layers.Dense(4, name="boxes")(found)
    disc = layers.Dense(1, activation="sigmoid", name="discs")(found)
    served = {
        "boxes": ops.clip(boxes, 0, 1),
        "scores": ops.maximum(disc, 1 - disc),
        "classes": ops.cast(disc > 0.5, "int32"),
    }
    return keras.Model(image, {"boxes": boxes, "discs": disc}), keras.Model(image, served)


def main() -> None:
    """Train, and write the model and an image."""
    keras.utils.set_random_seed(1)
    trained, served = detector()
    trained.compile(
        optimizer=keras.optimizers.Adam(0.002),
        loss={"boxes": "mae", "discs": "binary_crossentropy"},
    )
    trained.fit(*images(2500, seed=1), epochs=5, batch_size=64, verbose=0)
    pixels, expected = images(300, seed=2)
    answer = served(pixels)
    print(
        f"accuracy: {np.mean(answer['classes'].numpy() == expected['discs']):.1%}, mean error of a "
        f"box: {SIZE * np.mean(abs(answer['boxes'].numpy() - expected['boxes'])):.1f} pixels"
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    served.save(FOLDER / "shapes.keras")
    np.save(FOLDER / "image.npy", pixels[:1])


if __name__ == "__main__":
    main()
