"""A small training that kills itself: python resume_child.py RUN STEPS_UNTIL_SIGKILL METHOD."""

import hashlib
import os
import signal
import sys

import keras
from toy import ToySource

from keras_robustseg.data import Affine, Augment, Ingest, Pipeline
from keras_robustseg.labels import Pencil
from keras_robustseg.losses import CrossEntropyDice
from keras_robustseg.metrics import Dice
from keras_robustseg.models import unet
from keras_robustseg.training import ExactResume, RobustSegmenter


class KillAfter(keras.callbacks.Callback):
    """SIGKILL in the middle of an epoch: no handler, no cleaning up."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def build(method, **changes):
    """A training with everything that has a state: batch norm, dropout, Adam, label rows."""
    keras.utils.set_random_seed(0)
    source = ToySource(24)
    pipeline = Pipeline(
        Ingest(source, source.split("train")),
        batch_size=3,
        augment=Augment(rotate90=True, affine=Affine()),
        label_rows=method == "PENCIL",
        seed=3,
    )
    validation = Pipeline(
        Ingest(source, source.split("val")), batch_size=3, shuffle=False, drop_remainder=False
    )
    network = unet((None, None, 1), 2, width=4, depth=2, dropout=0.2)
    pencil = Pencil(warmup=0.2) if method == "PENCIL" else None
    model = RobustSegmenter(network, pencil, label_shapes=pipeline.shapes if pencil else None)
    loss = None if pencil else CrossEntropyDice()
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 20)
    model.compile(keras.optimizers.Adam(rate), loss=loss, metrics=[Dice(2, name="dice")], **changes)
    return model, pipeline, validation


def fit(model, pipeline, validation, directory, *callbacks, epochs=4, every_steps=2):
    """Train, or go on training, with a state every few steps."""
    resume = ExactResume(directory, pipeline, every_steps=every_steps)
    model.fit(
        pipeline.dataset(),
        epochs=epochs,
        validation_data=validation.dataset(),
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, resume],
    )
    return resume


def digest(model):
    """One number for all that a training ends with."""
    content = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        content.update(keras.ops.convert_to_numpy(variable).tobytes())
    return content.hexdigest()


if __name__ == "__main__":
    directory, kill, method = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    parts = build(method)
    fit(*parts, directory, KillAfter(kill))
    print("digest", digest(parts[0]))
