"""Time of the adversarial-library package on network A, for `benchmarks/attacks.py`.

    python benchmarks/attacks_rival.py BATCH

Prints the milliseconds of one image and iteration. It needs torch and adv-lib; what that package
imports beside the attack (torchvision, visdom) is stood in for where it is missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import torch

STEPS = 50
GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "attacks"

for name in ("torchvision", "visdom"):
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = MagicMock()

from adv_lib.attacks.segmentation.alma_prox import alma_prox  # noqa: E402


def network() -> torch.nn.Module:
    """Network A."""
    weights = np.load(GOLDEN / "weights_A.npz")
    layers: list[torch.nn.Module] = []
    for i, dilation in enumerate(weights["dilations"].tolist()):
        kernel = torch.tensor(weights[f"conv{i}_kernel"].transpose(3, 2, 0, 1))
        outputs, inputs = kernel.shape[:2]
        layer = torch.nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        layer.weight.data, layer.bias.data = kernel, torch.tensor(weights[f"conv{i}_bias"])
        layers += [layer, torch.nn.ReLU()]
    head = torch.nn.Conv2d(24, 3, 1)
    head.weight.data = torch.tensor(weights["head_kernel"].transpose(3, 2, 0, 1))
    head.bias.data = torch.tensor(weights["head_bias"])
    body = torch.nn.Sequential(*layers, head)

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return body(8 * (x - 0.5))

    return Scaled().eval()


def main() -> None:
    """Time a batch of images without void pixels; the package cannot mix them."""
    torch.set_num_threads(1)
    data, batch = np.load(GOLDEN / "dev_A.npz"), int(sys.argv[1])
    full = [i for i in range(16) if (data["labels"][i] < 3).all()][:batch]
    images = torch.tensor(data["images"][full].transpose(0, 3, 1, 2))
    labels = torch.tensor(data["labels"][full]).long()
    model = network()
    alma_prox(model, images, labels, num_steps=20)
    begun = time.process_time()
    alma_prox(model, images, labels, num_steps=STEPS)
    print(1e3 * (time.process_time() - begun) / STEPS / len(full))


if __name__ == "__main__":
    main()
