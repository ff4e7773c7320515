"""`robustseg recipe`: list, show and copy the recipes that come with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keras_robustseg._cli_guard import Overrides, RecipeName, guarded, load_recipe_file
from keras_robustseg.errors import RecipeError

recipe_app = typer.Typer(
    help="List, show and copy the recipes that come with the package.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@recipe_app.callback()
@guarded
def _recipe(
    context: typer.Context,
    list_: Annotated[bool, typer.Option("--list", help="List the packaged recipes.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a recipe.")
    ] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from keras_robustseg import recipes

    if schema:
        typer.echo(json.dumps(recipes.json_schema(), indent=2))
    elif list_:
        for name, headline in recipes.list_recipes().items():
            typer.echo(f"{name:<18} {headline}")
    else:
        raise RecipeError("recipe: expected --list, --schema, `show NAME` or `copy NAME FILE`")


@recipe_app.command("show")
@guarded
def show_recipe(
    name: RecipeName,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Write out every default.")] = False,
) -> None:
    """Print a recipe: as it is written, or with every default written out."""
    from keras_robustseg import recipes

    if resolved or overrides or Path(name).suffix:
        typer.echo(recipes.dump(load_recipe_file(name, overrides)), nl=False)
    else:
        typer.echo(recipes.recipe_text(name), nl=False)


@recipe_app.command("copy")
@guarded
def copy_recipe(
    name: RecipeName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, ending in .yaml.")],
) -> None:
    """Copy a packaged recipe, to start your own from."""
    from keras_robustseg import recipes

    typer.echo(f"written: {recipes.copy_recipe(name, file)}")
