"""`lcprune export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import LATEST, Json, Quiet, Run, UseTestSplit, exit_numbers, finite
from lcprune.cli.output import notice, show
from lcprune.specs import Criterion, Format, Int8Range, Layout, MeanCost, Precision, ThresholdInput


def export(
    run: Run = LATEST,
    file_format: Annotated[
        Format, typer.Option("--format", help="ort: onnxruntime's own format, for reduced builds.")
    ] = "onnx",
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
        typer.Option(min=0, max=100, callback=finite, help="Budget of `auto`. Default: the selection's, else 0.5."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=finite, help="Hold the budget with this confidence."),
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(min=1, help="Budget of `auto` instead: mean multiply-adds for an image.")
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="Budget of `auto` instead: mean latency, batch 1, one thread."),
    ] = None,
    minimize: Annotated[
        MeanCost,
        typer.Option(help="What becomes least within --max-drop; latency is measured here, and takes a minute."),
    ] = "macs",
    criterion: Annotated[
        Literal[Criterion, "auto"],
        typer.Option(help="What must reach the threshold; auto takes the one with which the budget goes furthest."),
    ] = "softmax",
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Make confidences true before `auto` looks at them.")
    ] = True,
    precision: Annotated[
        Precision,
        typer.Option(help="Numbers of weights and arithmetic; w8 stores weights in 8 bits, and computes fp32."),
    ] = "fp32",
    int8_range: Annotated[
        Int8Range,
        typer.Option(help="safe: weights of 7 bits, the same results on every processor; full: 8 bits."),
    ] = "safe",
    exits: Annotated[
        str | None, typer.Option(metavar="1,3", help="Keep only these early exits; drop the other critics.")
    ] = None,
    threshold_input: Annotated[
        ThresholdInput, typer.Option(help="Whether the graph takes thresholds as an input.")
    ] = "optional",
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout", "--form", help="Exits as branches (If), or one flat graph in which the rows get fewer."
        ),
    ] = "nested",
    batch: Annotated[
        int | None, typer.Option(min=1, max=1, metavar="1", help="Fix all shapes, for one image. Default: any number.")
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Also one file per segment, for hosts that drive the exits.")
    ] = False,
    use_test_split: UseTestSplit = False,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: below RUN/export/.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write ONNX, checked against torch before it gets its name, with a model card."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import export as pipeline
        from lcprune.reporting import tables

        request = pipeline.ExportRequest(
            progressive=progressive,
            exit_name=exit_name,
            threshold=threshold,
            max_drop_pct=max_drop,
            confidence=confidence,
            max_macs=max_macs,
            max_latency_ms=max_latency_ms,
            minimize=minimize,
            criterion=criterion,
            temperature=temperature,
            exits=exit_numbers(exits),
            threshold_input=threshold_input,
            use_test_split=use_test_split,
            output=output,
            precision=precision,
            int8_range=int8_range,
            layout=layout,
            batch=None if batch is None else 1,
            segments=segments,
            file_format=file_format,
        )
        result = pipeline.export(run, request, notice=notice(quiet))
        show(result, tables.export_table(result), as_json, quiet)
