"""Networks that no setting of an attack was chosen on, for `benchmarks/attacks.py`.

Images of coloured regions: each pixel has the class of the largest of C smooth random fields, and
the colour of the class with noise. The network has the layers of the reference networks.
"""

from __future__ import annotations

import keras
import numpy as np
from scipy import ndimage

SIZE, TRAINED, ATTACKED = 32, 512, 16
LAYERS = ((16, 1), (24, 1), (32, 2), (24, 4))  # channels and dilation


def regions(
    count: int, classes: int, noise: float, rng: np.random.Generator, colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (count, 32, 32, 3) in [0, 1] and their classes."""
    fields = rng.normal(size=(count, SIZE, SIZE, classes))
    labels = ndimage.gaussian_filter(fields, (0, 3, 3, 0)).argmax(-1)
    images = colours[labels] + rng.normal(0, noise, (count, SIZE, SIZE, 3))
    images = ndimage.gaussian_filter(images, (0, 0.5, 0.5, 0))
    return np.clip(images, 0, 1).astype("float32"), labels.astype("int32")


def fresh(classes: int, noise: float, seed: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Return a trained network, and images that it has not seen with their labels."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0.2, 0.8, (classes, 3))
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(8.0, -4.0)(image)
    for channels, dilation in LAYERS:
        x = keras.layers.Conv2D(
            channels, 3, padding="same", dilation_rate=dilation, activation="silu"
        )(x)
    model = keras.Model(image, keras.layers.Conv2D(classes, 1)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(*regions(TRAINED, classes, noise, rng, colours), epochs=6, batch_size=16, verbose=0)
    return (model, *regions(ATTACKED, classes, noise, rng, colours))
