"""Let this environment see the packages of another one, after its own, by a .pth file."""

import subprocess
import sys
import sysconfig
from pathlib import Path

other = subprocess.run(
    [sys.argv[1], "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
    capture_output=True,
    text=True,
    check=True,
).stdout.strip()
# A path in a .pth file is only searched, and .pth files in it (the editable install) are not read.
(Path(sysconfig.get_path("purelib")) / "shared.pth").write_text(f"{other}\n", encoding="utf-8")
