"""Train a Keras model on sentences, and serve it: it tells whether a review is good.

    python examples/keras_text.py
    mlserve export --model reviews --weights build/examples/reviews.keras
    mlserve up --model reviews
    mlserve predict --input text="what a lovely, friendly place"
    mlserve down

The model takes the text itself: TextVectorization, with its vocabulary, is its first layer. ONNX
has no counterpart for it, so such a model is served by TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

FILE = Path("build/examples/reviews.keras")
GOOD = ("lovely", "friendly", "great", "clean", "delicious", "quick")
BAD = ("awful", "rude", "dirty", "slow", "cold", "boring")
NEUTRAL = ("the place was", "what a", "staff and food were", "we found it", "all in all")


def reviews(count: int, seed: int) -> tuple[tf.Tensor, np.ndarray]:
    """Return so many sentences, and 1 for each good one, 0 for each bad one: [count, 1]."""
    rng = np.random.default_rng(seed)
    are_good = rng.integers(0, 2, count)
    sentences = [
        f"{rng.choice(NEUTRAL)} {' and '.join(rng.choice(GOOD if is_good else BAD, 2))}"
        for is_good in are_good
    ]
    return tf.constant(sentences), are_good[:, None]


def main() -> None:
    """Train, and write the model."""
    keras.utils.set_random_seed(1)
    sentences, are_good = reviews(2000, seed=1)
    words = keras.layers.TextVectorization(max_tokens=100, output_sequence_length=12)
    words.adapt(sentences)
    text = keras.Input((), dtype="string", name="text")
    meaning = keras.layers.Embedding(100, 8)(words(text))
    mean = keras.layers.GlobalAveragePooling1D()(meaning)
    good = keras.layers.Dense(1, activation="sigmoid")(mean)
    model = keras.Model(text, {"good": good})
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy")
    model.fit(sentences, {"good": are_good}, epochs=5, batch_size=64, verbose=0)
    unseen, expected = reviews(500, seed=2)
    found = model(unseen)["good"].numpy() > 0.5
    print(f"accuracy: {np.mean(found == expected):.1%}")
    FILE.parent.mkdir(parents=True, exist_ok=True)
    model.save(FILE)


if __name__ == "__main__":
    main()
