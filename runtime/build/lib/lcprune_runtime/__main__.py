"""`lcprune-runtime`, or ``python -m lcprune_runtime``."""

import typer

from lcprune_runtime import commands
from lcprune_runtime.command_line import command

app = typer.Typer(
    name="lcprune-runtime",
    help="Run models that `lcprune export` wrote, with onnxruntime and NumPy alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _work in (commands.predict, commands.evaluate, commands.bench):
    app.command()(command(_work))

if __name__ == "__main__":
    app()
