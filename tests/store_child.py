"""The training of `resume_child` with rows on a disk: python store_child.py RUN KILL STORAGE."""

import hashlib
import sys
from pathlib import Path

import keras
import resume_child

from keras_robustseg.labels import Pencil
from keras_robustseg.training import RobustSegmenter


def build(directory, storage):
    """The same network, data and optimizer, with label rows below the run directory."""
    plain, pipeline, validation = resume_child.build("PENCIL")
    model = RobustSegmenter(
        plain.network,
        Pencil(warmup=0.2, store="disk", storage=storage),
        label_shapes=pipeline.shapes,
        label_directory=Path(directory) / "labels",
    )
    model.compile(keras.optimizers.Adam(3e-3))
    return model, pipeline, validation


def digest(model):
    """One number for all that a training ends with, label rows included."""
    content = hashlib.sha256(resume_child.digest(model).encode())
    for number in range(len(model.label_store.shapes)):
        content.update(model.label_store.sample(number).tobytes())
    return content.hexdigest()


if __name__ == "__main__":
    directory, kill, storage = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    parts = build(directory, storage)
    resume_child.fit(*parts, directory, resume_child.KillAfter(kill))
    print("digest", digest(parts[0]))
