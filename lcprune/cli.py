"""The command line: every command parses, delegates and prints. Heavy modules are imported inside the commands."""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lcprune import __version__
from lcprune.errors import Interrupted, LcpruneError, OnnxModelError, RunError, SetupError

app = typer.Typer(
    name="lcprune",
    help="One training with local critics, a family of smaller networks, one ONNX model that stops early.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LATEST = Path("runs/latest")


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class BadImage(StrEnum):
    """What a damaged image file does."""

    STOP = "stop"
    SKIP = "skip"


class Minimize(StrEnum):
    """What the chosen sub-model has least of."""

    MACS = "macs"
    PARAMS = "params"
    LATENCY = "latency"
    SIZE = "size"


class ThresholdInput(StrEnum):
    """How a progressive graph takes its thresholds."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    NONE = "none"


class Format(StrEnum):
    """File format of an export."""

    ONNX = "onnx"
    ORT = "ort"


class Form(StrEnum):
    """How a progressive graph goes on with the images that stay."""

    NESTED = "nested"
    FLAT = "flat"


class Spent(StrEnum):
    """What stopping early saves."""

    MACS = "macs"
    LATENCY = "latency"


class Criterion(StrEnum):
    """What is held against the thresholds of a progressive graph."""

    SOFTMAX = "softmax"
    MARGIN = "margin"
    ENTROPY = "entropy"
    AGREEMENT = "agreement"
    AUTO = "auto"


class Precision(StrEnum):
    """Number format of an export."""

    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"
    W8 = "w8"


class PaperDataset(StrEnum):
    """What the paper trains on."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGENET = "imagenet"


class PaperPart(StrEnum):
    """A table or figure of the paper."""

    TABLE1 = "table1"
    TABLE2 = "table2"
    TABLE3 = "table3"
    TABLE4 = "table4"
    TABLE5 = "table5"
    TABLE6 = "table6"
    TABLE7 = "table7"
    TABLE8 = "table8"
    TABLE9 = "table9"
    FIGURE3 = "figure3"
    FIGURE4 = "figure4"
    FIGURE5 = "figure5"
    FIGURE6 = "figure6"
    FIGURE7 = "figure7"


class Scale(StrEnum):
    """How large the runs of a reproduction are."""

    PAPER = "paper"
    SMALL = "small"
    TINY = "tiny"


Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and JSON.")]
Run = Annotated[Path, typer.Argument(help="Folder that `lcprune train` wrote.", show_default=True)]
RecipeName = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A YAML file or a shipped name; left out, ./lcprune.yaml.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.lr=0.05.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the images. Default: $LCPRUNE_DATA, else data/.", show_default=False)
]
Exits = Annotated[str | None, typer.Option(metavar="1,3", help="Consider only these sub-models, counted from 1.")]


def _finite(value: float | None) -> float | None:
    """Refuses what lies in every range as Python compares: ``nan``, and ``inf`` where there is no upper end."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


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


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Holds CLASS/image, or train/CLASS/image and val/ and test/ beside.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Such as vgg or mobilenet_v3_small. Default: by the size of the images."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=2048, help="Height and width to resize to. Default: by the images.")
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="none|default|PATH", help="What the network begins with; default: ImageNet's.")
    ] = "none",
    output: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("lcprune.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at a folder of images and write a recipe that fits, for `lcprune train`."""
    with _user_errors(as_json):
        from lcprune.pipeline import init as pipeline
        from lcprune.report import tables

        wanted = pipeline.Wanted(model, image_size, weights)
        result = pipeline.init(folder, output, wanted, force, _costs)
        _show(result, tables.survey_table(result), as_json, quiet)


@app.command()
def train(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. Default: runs/NAME-N.")] = None,
    data_root: DataRoot = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's train.seed.")] = None,
    on_bad_image: Annotated[
        BadImage | None, typer.Option(help="A damaged image file; instead of the recipe's data.on_bad_image.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe: one run gives every sub-model."""
    with _user_errors(as_json):
        from lcprune import recipe as recipes

        keys = [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])]
        keys += [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image.value}"]
        chosen = recipes.load(recipe, keys)
        if dry_run:
            _dry_run(chosen, _data_root(data_root), as_json, quiet)
            return
        with _torch():
            from lcprune.pipeline import train as pipeline
        result = pipeline.train(
            chosen,
            out=out,
            data_root=_data_root(data_root),
            device=device.value,
            display=_display(quiet),
            notice=_notice(quiet),
        )
        _print_trained(result, as_json, quiet)


@app.command()
def resume(
    run: Run = LATEST,
    overrides: Overrides = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped, as if it never had been."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import train as pipeline
        result = pipeline.resume(
            run,
            overrides or [],
            device=device.value,
            display=_display(quiet),
            notice=_notice(quiet),
        )
        _print_trained(result, as_json, quiet)


@app.command()
def profile(run: Run = LATEST, as_json: Json = False, quiet: Quiet = False) -> None:
    """Count MACs and parameters, measure size and latency, of every sub-model and of the cascade."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import profile as pipeline
        from lcprune.report import tables

        result = pipeline.profile_run(run)
        _show(result, tables.profile_table(result), as_json, quiet)


@app.command()
def select(
    run: Run = LATEST,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, callback=_finite, help="Accuracy points that may be lost.")
    ] = 2.0,
    minimize: Annotated[Minimize, typer.Option(help="What the choice shall have least of.")] = Minimize.MACS,
    exits: Exits = None,
    max_macs: Annotated[int | None, typer.Option(min=1, help="Most multiply-adds for one image.")] = None,
    max_params: Annotated[int | None, typer.Option(min=1, help="Most parameters.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, callback=_finite, help="Longest latency, batch 1, one thread.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=_finite, help="Hold the drop with this confidence, such as 0.95."),
    ] = None,
    use_test_split: Annotated[bool, typer.Option("--use-test-split", help="Let the test set decide.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pick the smallest sub-model within the accuracy budget."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.analysis.select import Budget
            from lcprune.pipeline import select as pipeline
        from lcprune.report import tables

        budget = Budget(
            max_drop_pct=max_drop,
            minimize=minimize.value,
            exits=_numbers(exits),
            max_macs=max_macs,
            max_params=max_params,
            max_latency_ms=max_latency_ms,
            confidence=confidence,
        )
        chosen = pipeline.select(run, budget, use_test_split=use_test_split)
        _show(chosen.as_json(), tables.selection_table(chosen), as_json, quiet)


@app.command()
def export(
    run: Run = LATEST,
    file_format: Annotated[
        Format, typer.Option("--format", help="ort: onnxruntime's own format, for reduced builds.")
    ] = Format.ONNX,
    progressive: Annotated[bool, typer.Option("--progressive", help="One graph that stops early.")] = False,
    exit_name: Annotated[
        str | None,
        typer.Option(
            "--exit", metavar="K|main", help="This sub-model, not the selected one; with --progressive, the last exit."
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option(metavar="auto|T|T1,T2,..", help="When a row leaves: calibrated, or by hand.")
    ] = "auto",
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, callback=_finite, help="Budget of `auto`. Default: the selection's, else 0.5."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=_finite, help="Hold the budget with this confidence."),
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(min=1, help="Budget of `auto` instead: mean multiply-adds for an image.")
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, callback=_finite, help="Budget of `auto` instead: mean latency, batch 1, one thread."),
    ] = None,
    minimize: Annotated[
        Spent, typer.Option(help="What becomes least within --max-drop; latency is measured here, and takes a minute.")
    ] = Spent.MACS,
    criterion: Annotated[
        Criterion,
        typer.Option(help="What must reach the threshold; auto takes the one with which the budget goes furthest."),
    ] = Criterion.SOFTMAX,
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Make confidences true before `auto` looks at them.")
    ] = True,
    precision: Annotated[
        Precision,
        typer.Option(help="Numbers of weights and arithmetic; w8 stores weights in 8 bits, and computes fp32."),
    ] = Precision.FP32,
    exits: Annotated[
        str | None, typer.Option(metavar="1,3", help="Keep only these early exits; drop the other critics.")
    ] = None,
    threshold_input: Annotated[
        ThresholdInput, typer.Option(help="Whether the graph takes thresholds as an input.")
    ] = ThresholdInput.OPTIONAL,
    form: Annotated[
        Form, typer.Option(help="Exits as branches (If), or one flat graph in which the rows get fewer.")
    ] = Form.NESTED,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1, metavar="1", help="Fix all shapes, for one image. Default: any number.")
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Also one file per segment, for hosts that drive the exits.")
    ] = False,
    use_test_split: Annotated[bool, typer.Option("--use-test-split", help="Let the test set decide.")] = False,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: below RUN/export/.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write ONNX, checked against torch before it gets its name, with a model card."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import export as pipeline
        from lcprune.report import tables

        request = pipeline.ExportRequest(
            progressive=progressive,
            exit_name=exit_name,
            threshold=threshold,
            max_drop_pct=max_drop,
            confidence=confidence,
            max_macs=max_macs,
            max_latency_ms=max_latency_ms,
            minimize=minimize.value,
            criterion=criterion.value,
            temperature=temperature,
            exits=_numbers(exits),
            threshold_input=threshold_input.value,
            use_test_split=use_test_split,
            output=output,
            precision=precision.value,
            form=form.value,
            batch=None if batch is None else 1,
            segments=segments,
            file_format=file_format.value,
        )
        result = pipeline.export(run, request, notice=_notice(quiet))
        _show(result, tables.export_table(result), as_json, quiet)


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(help="A run folder, or an exported model with --data.")] = LATEST,
    data: Annotated[
        str | None,
        typer.Option(metavar="RECIPE|FOLDER", help="Images for an .onnx file: a recipe's test split, or a folder."),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average the logits over each image and its mirror image (a run alone).")
    ] = False,
    data_root: DataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy of every exit, of ensembles and of progressive inference."""
    with _user_errors(as_json):
        from lcprune.report import tables

        if target.suffix in (".onnx", ".ort", ".json"):
            from lcprune.pipeline import evaluate_onnx

            if data is None:
                raise OnnxModelError(
                    f"{target} needs images to be evaluated on", "add --data with a recipe or a folder"
                )
            if flip:
                raise OnnxModelError(
                    f"{target} decides on plain images: --flip is computed from the weights of a run",
                    "leave --flip out, or name the run",
                )
            result = evaluate_onnx.evaluate(target, data, _data_root(data_root))
        else:
            from lcprune.pipeline import evaluate_run

            if data is not None:
                raise RunError("a run is evaluated on its own images", "leave --data out, or name an .onnx file")
            result = evaluate_run.evaluate(target, flip=flip)
            if flip:
                _notice(quiet)("every logit is the mean over an image and its mirror image")
        _show(result, tables.evaluation_table(result), as_json, quiet)


@app.command()
def report(
    run: Run = LATEST,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: RUN/report.html.")] = None,
    rdm: Annotated[
        bool, typer.Option("--rdm/--no-rdm", help="What the layers make of images; it runs the network, seconds.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run, which needs no network and no other file."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import report as pipeline

        written = pipeline.report(run, output=output, with_rdm=rdm)
        _show(written.as_json(), f"wrote {written.path} ({written.size_bytes / 1000:,.0f} kB)", as_json, quiet)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    save_grid: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png", help="Also a contact sheet: every image, with what the model says under it."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the contact sheet.")] = 6,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class, confidence and exit of each image; needs no torch."""
    with _user_errors(as_json):
        from lcprune.pipeline import predict as pipeline
        from lcprune.report import tables

        result = pipeline.predict(model, images, save_grid, columns)
        _show(result, tables.prediction_table(result), as_json, quiet)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help="The files, or folders of segments, to compare.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model.")] = 200,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Latency and size of models side by side, batch 1, one thread; needs no torch."""
    with _user_errors(as_json):
        from lcprune.pipeline import bench as pipeline
        from lcprune.report import tables

        result = pipeline.bench(models, runs)
        _show(result, tables.bench_table(result), as_json, quiet)


@app.command()
def verify(
    target: Annotated[Path, typer.Argument(help="A run folder, or a file that it exported.")] = LATEST,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold every file of a run against its recorded SHA-256."""
    with _user_errors(as_json):
        from lcprune.pipeline import verify as pipeline

        result = pipeline.verify(target)
        _show(result, f"{len(result['files'])} files are what was recorded", as_json, quiet)


@app.command()
def reproduce(
    name: Annotated[PaperPart, typer.Argument(help="A table or figure of the paper.")],
    datasets: Annotated[
        list[PaperDataset] | None, typer.Option("--dataset", help="Only this; repeatable. Default: all that it shows.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs of each kind. Default: 5, small 2, tiny 1.")
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="paper: 80,000 steps, for a GPU; small: hours on a CPU; tiny: seconds, a rehearsal.")
    ] = Scale.PAPER,
    overrides: Overrides = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    out: Annotated[Path | None, typer.Option(help="Folder of runs and results. Default: reproduce/SCALE.")] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a table or figure of the paper and hold it against the paper's figures; what is there is not run again."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import reproduce as pipeline
        from lcprune.report import tables

        request = pipeline.Request(
            name=name.value,
            scale=scale.value,
            datasets=tuple(dataset.value for dataset in datasets or ()),
            seeds=seeds,
            out=out,
            data_root=_data_root(data_root),
            device=device.value,
            overrides=tuple(overrides or ()),
        )
        result = pipeline.reproduce(request, display=_display(quiet), notice=_notice(quiet))
        _show(result, tables.reproduction_table(result), as_json, quiet)


@app.command()
def cuts(
    trunk: Annotated[str, typer.Argument(help="torchvision/NAME, or your own package.module:callable.")],
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of an image, in pixels.")] = 224,
    channels: Annotated[int, typer.Option(min=1, help="Channels of an image.")] = 3,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 1000,
    groups: Annotated[int, typer.Option(min=2, help="Layer groups that model.cuts: auto is asked for.")] = 4,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List where a trunk can be cut into layer groups, with the MACs before each place and the shape there."""
    with _user_errors(as_json):
        with _torch():
            from lcprune.pipeline import cuts as pipeline
        from lcprune.report import tables

        result = pipeline.list_cuts(trunk, image_size=image_size, channels=channels, classes=classes, groups=groups)
        _show(result, tables.cuts_table(result), as_json, quiet)


@app.command("recipes")
def list_recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML, to copy and change.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the shipped recipes, or print one."""
    with _user_errors(as_json):
        from lcprune import recipe as recipes
        from lcprune.errors import RecipeError
        from lcprune.report import tables

        shipped = recipes.shipped()
        if name is None:
            described = {key: recipes.description(text) for key, text in shipped.items()}
            _show(described, tables.recipe_table(described), as_json, quiet)
        elif name in shipped:
            typer.echo(json.dumps({name: shipped[name]}) if as_json else shipped[name], nl=as_json)
        else:
            raise RecipeError(f"there is no shipped recipe {name}", f"choose from {', '.join(shipped)}")


@app.command()
def validate(
    recipe: RecipeName = None, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Check a recipe."""
    with _user_errors(as_json):
        from lcprune import recipe as recipes

        checked = recipes.load(recipe, overrides or [])
        _show(
            checked.model_dump(mode="json", exclude_none=True), f"{checked.name}: the recipe is right", as_json, quiet
        )


@app.command()
def schema(as_json: Json = True, quiet: Quiet = False) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from lcprune import recipe as recipes

    typer.echo(json.dumps(recipes.json_schema(), indent=2))


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder: say as well in what this machine differs from the run's.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what this machine has, and what is wrong with the installation."""
    with _user_errors(as_json):
        from lcprune.pipeline import doctor as pipeline
        from lcprune.report import tables

        result = pipeline.examine(run)
        _show(result, tables.doctor_table(result), as_json, quiet)
        if result["problems"]:
            raise typer.Exit(1)


@contextmanager
def _user_errors(as_json: bool) -> Iterator[None]:
    """Turns what a user can mend into one message and an exit code."""
    try:
        yield
    except LcpruneError as error:
        raise _reported(error, as_json) from None
    except KeyboardInterrupt:
        raise _reported(Interrupted("interrupted", "run the command again"), as_json) from None


def _reported(error: LcpruneError, as_json: bool) -> typer.Exit:
    """Says what went wrong; raise what comes back."""
    if as_json:
        content = {"kind": error.kind, "problem": error.problem, "fix": error.fix}
        typer.echo(json.dumps({"error": content}))
    else:
        typer.echo(str(error) if isinstance(error, Interrupted) else f"error: {error}", err=True)
    return typer.Exit(error.exit_code)


@contextmanager
def _torch() -> Iterator[None]:
    """Says how to mend an installation in which torch cannot be imported."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, LcpruneError):
            raise
        raise SetupError(
            f"the installation does not work: {error}",
            "install torch and torchvision together, from the same index, into a fresh virtual environment: "
            "pip install torch torchvision",
        ) from None


def _display(quiet: bool) -> Any:
    from lcprune.report.progress import TrainingProgress

    hint = (
        "hint: that is long for this device. For a CPU there are smaller recipes (lcprune recipes lists them: digits "
        "takes seconds, vgg_cifar10_small minutes); on a GPU add --device cuda. "
        "Ctrl-C saves; `lcprune resume` goes on."
    )
    return lambda iterations, start, names: TrainingProgress(iterations, start, names, quiet=quiet, hint=hint)


def _notice(quiet: bool) -> Any:
    return (lambda message: None) if quiet else (lambda message: typer.echo(message, err=True))


def _data_root(given: Path | None) -> Path:
    return given or Path(os.environ.get("LCPRUNE_DATA") or "data")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """``1,3`` as numbers from 1 up."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise LcpruneError(f"--exits {text} does not name sub-models", "write their numbers, such as --exits 1,3")
    return tuple(sorted({int(part) for part in parts}))


def _costs(recipe: Any, data_root: Path = Path("data")) -> Any:
    """What `--dry-run` says about a recipe, or the error of one whose network cannot be built."""
    with _torch():
        from lcprune.pipeline import dry_run as pipeline
    return pipeline.dry_run(recipe, data_root)


def _dry_run(recipe: Any, data_root: Path, as_json: bool, quiet: bool) -> None:
    from lcprune.report import tables

    result = _costs(recipe, data_root)
    _show(result, tables.dry_run_table(result), as_json, quiet)


def _print_trained(result: Any, as_json: bool, quiet: bool) -> None:
    from lcprune.report import tables

    content = {
        "run": str(result.run),
        "iterations": result.iterations,
        "seconds": round(result.seconds, 3),
        "val_accuracy_pct": list(result.val_accuracy_pct),
        "test_accuracy_pct": list(result.test_accuracy_pct),
        "val_balanced_accuracy_pct": list(result.val_balanced_accuracy_pct),
        "test_balanced_accuracy_pct": list(result.test_balanced_accuracy_pct),
        "bad_images": len(result.bad_images),
    }
    _show(content, tables.trained_table(result), as_json, quiet)


def _show(content: Any, table: Any, as_json: bool, quiet: bool) -> None:
    """One result: as JSON on stdout, or as a table there."""
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif not quiet:
        from lcprune.report.tables import print_table

        print_table(table, sys.stdout)
