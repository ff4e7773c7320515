"""Two replicas train as one device does; no replica loses the label rows of the other."""

import subprocess
import sys
from pathlib import Path


def test_two_replicas_end_with_the_weights_and_rows_of_one_device():
    child = Path(__file__).with_name("replica_child.py")
    run = subprocess.run([sys.executable, str(child)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    differences = dict(line.split() for line in run.stdout.splitlines())
    assert set(differences) == {"PENCIL", "CE"}
    assert all(float(value) < 1e-5 for value in differences.values()), differences
