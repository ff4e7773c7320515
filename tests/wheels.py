"""Which optional packages are there, without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution


def installed(package: str) -> bool:
    """Whether pip installed the package."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
