"""The commands in the order in which `lcprune --help` shows them."""

from collections.abc import Callable
from typing import Annotated

import typer

from lcprune import __version__
from lcprune.cli import doctor, export, init, measure, models, recipes, report, reproduce, train

COMMANDS: tuple[Callable[..., None], ...] = (
    init.init,
    train.train,
    train.resume,
    measure.profile,
    measure.select,
    export.export,
    measure.evaluate,
    report.report,
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

app = typer.Typer(
    name="lcprune",
    help="One training with local critics, a family of smaller networks, one ONNX model that stops early.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    app()


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
