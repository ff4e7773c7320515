"""From what a command raises to one message and an exit code; and what commands share."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keras_robustseg.errors import RobustSegError
from keras_robustseg.training._stop import StopRequested

if TYPE_CHECKING:
    from keras_robustseg.recipes import PixelRecipe, Recipe

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a packaged recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: training.epochs=3."),
]


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what a command raises into one message and the exit code that fits."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):
            raise
        except RobustSegError as error:
            fail(str(error), EXIT_BAD_INPUT, error)
        except (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            fail(f"{error.filename}: {error.strerror}", EXIT_BAD_INPUT, error)
        except StopRequested as error:
            fail(str(error) or "stopped on request; the state is saved", EXIT_STOPPED, error)
        except KeyboardInterrupt as error:
            fail("stopped before a state could be saved", EXIT_FAILED, error)
        except Exception as error:
            fail(f"{type(error).__name__}: {error}", EXIT_FAILED, error)

    return run


def fail(message: str, code: int, error: BaseException) -> NoReturn:
    if os.environ.get("ROBUSTSEG_TRACEBACK"):
        traceback.print_exception(error)
    for line in message.splitlines() or ["no message"]:
        typer.echo(line if code == EXIT_STOPPED else f"error: {line}", err=True)
    if code == EXIT_FAILED:
        typer.echo("This is not expected; set ROBUSTSEG_TRACEBACK=1 to see where.", err=True)
    raise typer.Exit(code)


def load_recipe_file(name: str, overrides: list[str] | None) -> Recipe | PixelRecipe:
    from keras_robustseg.recipes import load_recipe

    return load_recipe(name, overrides=overrides or ())
