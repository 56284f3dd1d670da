"""The command line: every command parses, calls and returns what is printed. Heavy modules are imported inside them."""

from collections.abc import Callable
from typing import Annotated

import typer

from lcprune import __version__
from lcprune.cli import doctor, export, measure, models, recipes, reproduce, train
from lcprune_runtime.command_line import run_app

COMMANDS: tuple[Callable[..., None], ...] = (
    recipes.init,
    train.train,
    train.resume,
    measure.profile,
    measure.select,
    export.export,
    measure.evaluate,
    measure.report,
    models.predict,
    models.bench,
    doctor.verify,
    reproduce.reproduce,
    recipes.cuts,
    recipes.recipes,
    recipes.validate,
    recipes.schema,
    doctor.doctor,
)
"""In the order in which `lcprune --help` shows them."""

app = typer.Typer(
    name="lcprune",
    help="Train an image classifier with early exits, pick a sub-model within a budget, export it to ONNX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lcprune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _command in COMMANDS:
    app.command()(_command)
