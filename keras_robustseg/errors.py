"""The package's own exceptions: one family, so that a caller can catch them all.

Every message says what is wrong, where (file, field, line), what was expected, and what to do.
The command line turns each of them into one line and exit code 2.
"""

from __future__ import annotations


class RobustSegError(Exception):
    """Base of all errors that this package raises on bad input or broken files."""


class RecipeError(RobustSegError):
    """A recipe cannot be read, or one of its fields is wrong."""


class DataError(RobustSegError):
    """An image, a mask or a data set is missing, damaged or not what it claims to be."""


class StateError(RobustSegError):
    """A run directory or a saved state is in use, damaged, or belongs to another run."""


class ExportError(RobustSegError):
    """A model cannot be exported, or an exported model is damaged."""


class TrainingError(RobustSegError):
    """Training cannot go on, for instance because too many steps were not finite."""


class SolverError(RobustSegError):
    """A numerical solver did not reach its tolerance, and the caller asked for an error."""
