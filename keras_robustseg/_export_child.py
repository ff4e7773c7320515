"""Export from a backend other than TensorFlow, by a child process that runs TensorFlow.

SavedModels are TensorFlow graphs. The `.keras` file is the same on every backend, so it is the
bridge.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_robustseg.errors import ExportError


def write_formats_in_child(
    network: Any, directory: Path, *, formats: Sequence[str], size: tuple[int, ...] | None
) -> dict[str, float | None]:
    """Do what `write_formats` does, in a process of its own on the TensorFlow backend.

    Raises:
        ExportError: the child could not load or write the network; its last words are quoted.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / "network.keras", Path(folder) / "parity.json"
        network.save(path)
        task = {
            "network": str(path),
            "directory": str(directory),
            "formats": list(formats),
            "size": size,
            "result": str(result),
        }
        child = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(task)],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(
                f"{directory.name}: the TensorFlow process that exports failed: {last}"
            )
        return json.loads(result.read_text())


def _main(text: str) -> None:
    import keras

    import keras_robustseg.models  # noqa: F401  registers its layers with Keras
    from keras_robustseg._export_formats import write_formats

    task = json.loads(text)
    parity = write_formats(
        keras.models.load_model(task["network"], compile=False),
        Path(task["directory"]),
        formats=task["formats"],
        size=tuple(task["size"]) if task["size"] else None,
    )
    Path(task["result"]).write_text(json.dumps(parity))


if __name__ == "__main__":
    _main(sys.argv[1])
