"""Files that another package carries inside its wheel, found without importing that package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from keras_robustseg.errors import DataError

__all__ = ["bundled_file"]


def bundled_file(package: str, path: str, *, extra: str) -> Path:
    """Finds a file inside an installed package.

    Importing the package could load much more than the file, or fail on a newer numpy; its
    metadata is enough to find it.

    Args:
        package: Name of the distribution, as for pip.
        path: Path of the file inside the distribution, with forward slashes.
        extra: Extra of keras-robustseg that installs the package, for the message.

    Returns:
        The path of the file on this machine.

    Raises:
        DataError: The package is not installed, or does not hold the file.

    Example:
        `bundled_file("numpy", "numpy/__init__.py", extra="test")`
    """
    advice = f'pip install "keras-robustseg[{extra}]"'
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise DataError(
            f"{path}: it lies inside the package {package}, which is not installed; run: {advice}"
        ) from None
    located = Path(str(found.locate_file(path)))
    if not located.is_file():
        raise DataError(
            f"{located}: not there, although {package} {found.version} is installed; expected the "
            f"file {path} inside it; install it again: {advice}"
        )
    return located
