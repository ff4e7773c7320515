"""A small data set of noisy discs, made on the spot."""

import numpy as np

from keras_robustseg.data import Example, Sample, Source


class ToySource(Source):
    """Discs (balls in 3-D) of up to two classes on noise; masks are moved by a few pixels."""

    def __init__(self, count=24, *, shape=(32, 32), classes=2, readers=1, shift=2, vary=False):
        self.name, self.channels, self.dims = "toy", 1, len(shape)
        self.classes = ("background", "disc", "ring")[:classes]
        self._shape, self._readers, self._shift, self._vary = shape, readers, shift, vary
        splits = ["train"] * (count * 2 // 3) + ["val"] * (count // 6)
        splits += ["test"] * (count - len(splits))
        self.samples = tuple(
            Sample(f"toy-{i:03d}", split, f"toy {i}", f"toy {i}") for i, split in enumerate(splits)
        )

    def load(self, index):
        rng = np.random.default_rng([7, index])
        shape = tuple(n + int(rng.integers(0, 5)) * self._vary for n in self._shape)
        centre = [rng.uniform(0.35 * n, 0.65 * n) for n in shape]
        radius = rng.uniform(0.15, 0.25) * min(shape)
        axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
        distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
        truth = (distance < radius).astype("int16")
        if len(self.classes) == 3:
            truth[(distance >= radius) & (distance < 1.5 * radius)] = 2
        image = truth[..., None] + rng.normal(0, 0.3, (*shape, 1))
        reach, axes = self._shift, range(len(shape))
        given = [
            np.roll(truth, rng.integers(-reach, reach + 1, len(shape)), axes)
            for _ in range(self._readers)
        ]
        return Example(
            image.astype("float32"), np.stack(given, axis=-1), truth, (1.0,) * len(shape)
        )
