"""`lcprune-runtime`, or ``python -m lcprune_runtime``."""

import sys


def main() -> None:
    """Runs a command; without the packages that commands need it says how to install them."""
    try:
        import typer

        from lcprune_runtime import commands
        from lcprune_runtime.command_line import command, run_app
    except ModuleNotFoundError as error:
        fix = "pip install 'lcprune-runtime[commands]', or pip install 'RUNTIME_FOLDER[commands]' from a checkout"
        sys.exit(f"error: the commands need the package {error.name}\n  fix: {fix}")
    app = typer.Typer(
        name="lcprune-runtime",
        help="Run models that `lcprune export` wrote, with onnxruntime and NumPy alone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for work in (commands.predict, commands.evaluate, commands.bench):
        app.command()(command(work))
    run_app(app)


if __name__ == "__main__":
    main()
