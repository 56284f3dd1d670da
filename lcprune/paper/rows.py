"""The rows of a table: computed from the runs' stored predictions, beside the figures that the paper prints."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.representation import Dissimilarities
from lcprune.errors import RunError
from lcprune.paper import measures, printed, recording
from lcprune.paper.cost import costs
from lcprune.paper.measures import LossEvolution
from lcprune.paper.paper_runs import recipe_of
from lcprune.paper.scales import SCALES
from lcprune.paper.statistics import mann_whitney, mean_and_std
from lcprune.paper.targets import Kind, Row, Target
from lcprune.paper.work import Outcome
from lcprune.pipeline import rdm, stored
from lcprune.pipeline.curves import read_curves

Outcomes = Mapping[tuple[str, str], Sequence[Outcome]]
"""By dataset and run, a seed after the other."""

IMAGES = 400
"""Samples in Figure 5."""

CIFAR10 = (10, (3, 32, 32))
"""Classes and image shape of the paper's Table 5."""


def rows_of(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """The rows of a table or figure, on each dataset."""
    if target.kind == "cost":
        return _cost_rows(target)
    return [_row(name, target.kind, dataset, row, outcomes) for dataset in datasets for row in target.rows]


def tests(target: Target, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pairs that the paper tests, on each dataset."""
    accuracies = {(row["dataset"], row["name"]): row["values"] for row in rows if "values" in row}
    return [
        {"test": "Mann-Whitney, two-sided, exact", "dataset": dataset, "rows": [one, other]}
        | mann_whitney(accuracies[dataset, one], accuracies[dataset, other])
        for dataset in dict.fromkeys(dataset for dataset, _ in accuracies)
        for one, other in target.pairs
    ]


@cache
def dissimilarities(folder: Path) -> Dissimilarities:
    """Figure 5, of one run; the paper's 400 images, or as many as there are."""
    return rdm.dissimilarities(folder, IMAGES)


def loss_evolution(folder: Path) -> LossEvolution:
    """Figure 6, of one run.

    Raises:
        RunError: If the run was trained without that record, by hand or by an older version.
    """
    if not (folder / runs.SAMPLE_LOSSES).is_file():
        raise RunError(
            f"{folder} was trained without logging.sample_losses, so that it has no losses of single images",
            "remove that folder and run the same command: it is then trained again, with the record",
        )
    arrays = recording.read(folder / runs.SAMPLE_LOSSES)
    return LossEvolution(exit_names=measures.exit_names(arrays["losses"].shape[1]), **arrays)


def _cost_rows(target: Target) -> list[dict[str, Any]]:
    """Table 5, of the paper's own network: exact on any machine."""
    found, flops = costs(recipe_of("lc_3", "cifar10", 0, SCALES["paper"]), *CIFAR10)
    in_paper = printed.costs()
    return [
        {
            "name": row.name,
            "dataset": "cifar10",
            "params": cost.params,
            "paper_flop": flop,
            "macs": cost.macs,
            "macs_ratio": cost.macs / found.exits[-1].macs,
            "paper_params_millions": in_paper[row.name][0],
            "paper_flop_millions": in_paper[row.name][1],
        }
        for row, cost, flop in zip(target.rows, found.exits, flops, strict=True)
    ]


def _row(name: str, kind: Kind, dataset: str, row: Row, outcomes: Outcomes) -> dict[str, Any]:
    """Mean and standard deviation over the seeds whose runs are finished, beside the paper's."""
    of_run = outcomes[dataset, row.run]
    finished = [outcome for outcome in of_run if not outcome.failed]
    if kind == "progressive":
        found = [_early_exits(row, outcome) for outcome in finished]
        values, extra = [one["accuracy_pct"] for one in found], _mean_costs(found)
        extra["paper_flop_millions"] = printed.mean_flop_millions(row.name)
    else:
        values, extra = [READERS[kind](row, outcome.folder) for outcome in finished], {}
    mean, std = mean_and_std(values)
    table, printed_row = row.printed or (name, row.name)
    paper_mean, paper_std = printed.accuracy(table, dataset, printed_row)
    return {
        "name": row.name,
        "dataset": dataset,
        "mean": mean,
        "std": std,
        "seeds": len(values),
        "paper_mean": paper_mean,
        "paper_std": paper_std,
        "values": values,
        "failed": [{"seed": outcome.paper_run.seed, "problem": outcome.failed} for outcome in of_run if outcome.failed],
        "runs": [str(outcome.folder) for outcome in of_run],
    } | extra


def _accuracy(row: Row, folder: Path) -> float:
    """Test accuracy in percent."""
    return measures.accuracy_pct(*_test_split(folder), row.of)


def _final_loss(row: Row, folder: Path) -> float:
    """Figure 3: training loss of an exit in the last logged interval, in nats."""
    found = read_curves(folder)
    return float(found.losses[-1, found.exit_names.index(row.of)])


def _contrast(row: Row, folder: Path) -> float:
    """Figure 5: how well the output layer separates the classes."""
    return measures.contrasts(dissimilarities(folder))[-1]


def _correlation(row: Row, folder: Path) -> float:
    """Figure 6: correlation of the images' losses at an exit with those at main, at the end of the run."""
    found = loss_evolution(folder)
    return float(measures.correlations(found)[-1, found.exit_names.index(row.of)])


READERS: dict[Kind, Callable[[Row, Path], float]] = {
    "accuracy": _accuracy,
    "loss_curves": _final_loss,
    "dissimilarity": _contrast,
    "loss_evolution": _correlation,
}
"""What a row shows of a run."""


def _early_exits(row: Row, outcome: Outcome) -> dict[str, Any]:
    """Table 6, of one run."""
    facts = stored.read_facts(outcome.folder)
    cost, flops = costs(outcome.paper_run.recipe, len(facts.classes), facts.image_shape)
    return measures.early_exits(*_test_split(outcome.folder), row.of, cost.cascade, flops)


def _mean_costs(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; None, and no shares, where no run is finished."""
    keys = ("paper_flop", "mean_macs", "macs_ratio")
    if not found:
        return dict.fromkeys(keys) | {"exit_fractions": []}
    means: dict[str, Any] = {key: float(np.mean([one[key] for one in found])) for key in keys}
    return means | {"exit_fractions": np.mean([one["exit_fractions"] for one in found], axis=0).tolist()}


def _test_split(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    arrays = runs.read_predictions(folder, ["test"])
    return arrays["test_logits"], arrays["test_labels"]
