"""How large a label step may be: rows settle below label_rate (1 + m) = 4 and swing above it."""

import numpy as np
import pytest

from keras_robustseg.labels import row_step


@pytest.mark.parametrize(("rate", "settles"), [(1.0, True), (2.4, True), (2.7, False)])
def test_the_bound_on_the_rate_is_sharp(rate, settles):
    margin, p, y = 0.6, np.array([0.2, 0.8]), np.array([1.0, 0.0])  # q* = 1/2: the hardest case
    r, path = 0.3, []
    for _ in range(3000):
        q = np.array([1.0, np.exp(r)]) / (1.0 + np.exp(r))
        r += rate * float(np.array(row_step(p, q, y, flip_margin=margin))[0])
        path.append(q[1])
    assert (np.ptp(path[-10:]) < 1e-3) == settles
