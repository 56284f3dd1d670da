"""`lcprune export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lcprune.cli.failing import torch_needed
from lcprune.cli.options import LATEST, Run, RunDataRoot, UseTestSplit, exit_labels, finite
from lcprune.cli.output import command, loops_shown, notice
from lcprune.specs import Criterion, Format, Int8Range, Layout, MeanCost, Precision, ThresholdInput
from lcprune_runtime.command_line import Json, Quiet, Result


@command
def export(
    run: Run = LATEST,
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="ort: for reduced builds of onnxruntime; executorch, litert, coreml: other runtimes, by extras.",
        ),
    ] = "onnx",
    progressive: Annotated[bool, typer.Option("--progressive", help="One graph with early exits.")] = False,
    exit_name: Annotated[
        str | None,
        typer.Option(
            "--exit",
            metavar="K|main|K@SIZE",
            help="This sub-model, not the selected one; with --progressive, the last exit.",
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option(metavar="auto|T|T1,T2,..", help="Of the early exits: calibrated, or given.")
    ] = "auto",
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, callback=finite, help="Budget of `auto`. Default: the selection's, else 0.5."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=finite, help="Keep the budget with this confidence."),
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(min=1, help="Budget of `auto` instead: MACs per image, on average.")
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="Budget of `auto` instead: mean latency, batch 1, one thread."),
    ] = None,
    minimize: Annotated[
        MeanCost,
        typer.Option(help="Cost to minimize within --max-drop; latency is measured on this machine (a minute)."),
    ] = "macs",
    criterion: Annotated[
        Literal[Criterion, "auto"],
        typer.Option(help="Score compared with the threshold; auto: the one that is cheapest within the budget."),
    ] = "softmax",
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Apply temperature scaling before `auto`.")
    ] = True,
    precision: Annotated[
        Precision,
        typer.Option(help="Of weights and arithmetic; w8: weights stored in 8 bits, computed in fp32."),
    ] = "fp32",
    int8_range: Annotated[
        Int8Range,
        typer.Option(help="safe: 7-bit weights, the same results on every CPU; full: 8 bits."),
    ] = "safe",
    exits: Annotated[
        str | None, typer.Option(metavar="1,3", help="Keep only these early exits; drop the other critics.")
    ] = None,
    threshold_input: Annotated[
        ThresholdInput, typer.Option(help="Whether thresholds are an input of the graph.")
    ] = "optional",
    layout: Annotated[
        Layout,
        typer.Option(
            "--layout",
            "--form",
            help="nested: exits as If branches; shared: weights of several sizes once in the file, in int8; "
            "flat: one graph, whose batch shrinks at each exit.",
        ),
    ] = "nested",
    batch: Annotated[
        int | None, typer.Option(min=1, max=1, metavar="1", help="Fixed shapes for one image. Default: dynamic.")
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Also one file per segment, for hosts that choose the exits themselves.")
    ] = False,
    use_test_split: UseTestSplit = False,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: below RUN/export/.")] = None,
    data_root: RunDataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> Result:
    """Write an ONNX file, verified against torch, with a model card."""
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
        exits=exit_labels(exits),
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
    with loops_shown(silent=quiet or as_json):
        result = pipeline.export(run, request, notice=notice(quiet), data_root=data_root)
    return result, tables.export_table(result)
