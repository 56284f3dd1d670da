"""The rows of a table: computed from the runs' stored predictions, beside what the paper prints."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.representation import Dissimilarities
from lcprune.errors import RunError
from lcprune.paper import measures, printed, recording
from lcprune.paper.cells import recipe_of
from lcprune.paper.cost import Costs, costs
from lcprune.paper.measures import EarlyExits, LossEvolution
from lcprune.paper.scales import SCALES
from lcprune.paper.statistics import LEVEL, mann_whitney, mean_and_std
from lcprune.paper.targets import Row, Target
from lcprune.paper.work import Outcome
from lcprune.pipeline import metrics, rdm, stored

Outcomes = Mapping[tuple[str, str], Sequence[Outcome]]
"""By dataset and run, a seed after the other."""

IMAGES = 400
"""Samples in Figure 5."""

CIFAR10 = (10, (3, 32, 32))
"""Classes and image shape of the paper's Table 5."""


def cost_rows(target: Target) -> list[dict[str, Any]]:
    """Table 5, of the paper's own network: exact on any machine."""
    found = costs(recipe_of("lc_3", "cifar10", 0, SCALES["paper"]), *CIFAR10)
    in_paper = printed.costs()
    return [
        {
            "name": row.name,
            "dataset": "cifar10",
            "params": params,
            "paper_flop": flop,
            "macs": macs,
            "macs_ratio": macs / found.macs[-1],
            "paper_params_millions": in_paper[row.name][0],
            "paper_flop_millions": in_paper[row.name][1],
        }
        for row, params, flop, macs in zip(target.rows, found.params, found.paper_flop, found.macs, strict=True)
    ]


def accuracy_rows(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Test accuracy in percent: mean and standard deviation over seeds."""

    def read(row: Row, folder: Path) -> float:
        return measures.accuracy_pct(*_test_split(folder), row.of)

    return measured_rows(name, target, datasets, outcomes, read)


def measured_rows(
    name: str,
    target: Target,
    datasets: Sequence[str],
    outcomes: Outcomes,
    read: Callable[[Row, Path], float],
) -> list[dict[str, Any]]:
    """A row for each of the target's rows and datasets: `read` of every seed whose run is finished."""
    return [_row(name, dataset, row, outcomes, read) for dataset in datasets for row in target.rows]


def loss_rows(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Figure 3: training loss of every exit, the mean of the last logged steps, in nats."""

    def read(row: Row, folder: Path) -> float:
        found = metrics.curves(folder)
        return float(found.losses[-1, found.exit_names.index(row.of)])

    return measured_rows(name, target, datasets, outcomes, read)


def dissimilarity_rows(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Figure 5: how well the output layer of every run tells the classes apart; see `measures.contrasts`."""

    def read(row: Row, folder: Path) -> float:
        return measures.contrasts(dissimilarities(folder))[-1]

    return measured_rows(name, target, datasets, outcomes, read)


def evolution_rows(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Figure 6: correlation of the images' losses at every exit with those at main, at the end of the run."""

    def read(row: Row, folder: Path) -> float:
        found = loss_evolution(folder)
        return float(measures.correlations(found)[-1, found.exit_names.index(row.of)])

    return measured_rows(name, target, datasets, outcomes, read)


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


def progressive_rows(name: str, target: Target, datasets: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Table 6: one threshold for all exits, the last row without any."""
    rows = []
    for dataset in datasets:
        for row in target.rows:
            found = [_early_exits(row, outcome) for outcome in _finished(outcomes, dataset, row)]
            accuracies = [one.accuracy_pct for one in found]
            means = {
                key: float(np.mean([getattr(one, key) for one in found])) if found else None
                for key in ("paper_flop", "mean_macs", "macs_ratio")
            }
            shares = np.mean([one.exit_fractions for one in found], axis=0).tolist() if found else []
            rows.append(
                _summary(name, dataset, row, outcomes, accuracies)
                | means
                | {"exit_fractions": shares, "paper_flop_millions": printed.mean_flop_millions(row.name)}
            )
    return rows


def tests(target: Target, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pairs that the paper tests, on each dataset: Mann-Whitney, two-sided, exact."""
    accuracies = {(row["dataset"], row["name"]): row["values"] for row in rows if "values" in row}
    found = []
    for dataset in dict.fromkeys(dataset for dataset, _ in accuracies):
        for one, other in target.pairs:
            compared = mann_whitney(accuracies[dataset, one], accuracies[dataset, other])
            found.append(
                {
                    "test": "Mann-Whitney, two-sided, exact",
                    "dataset": dataset,
                    "rows": [one, other],
                    "u": compared.u,
                    "p": compared.p,
                    "significant": None if compared.p is None else compared.p < LEVEL,
                    "reason": compared.reason,
                }
            )
    return found


def _row(name: str, dataset: str, row: Row, outcomes: Outcomes, read: Callable[[Row, Path], float]) -> dict[str, Any]:
    values = [read(row, outcome.folder) for outcome in _finished(outcomes, dataset, row)]
    return _summary(name, dataset, row, outcomes, values)


def _summary(name: str, dataset: str, row: Row, outcomes: Outcomes, values: list[float]) -> dict[str, Any]:
    mean, std = mean_and_std(values)
    table, printed_row = row.printed or (name, row.name)
    in_paper = printed.accuracy(table, dataset, printed_row)
    of_run = outcomes.get((dataset, row.run), ())
    failed = [{"seed": outcome.cell.seed, "problem": outcome.failed} for outcome in of_run if outcome.failed]
    return {
        "name": row.name,
        "dataset": dataset,
        "mean": mean,
        "std": std,
        "seeds": len(values),
        "paper_mean": in_paper.mean,
        "paper_std": in_paper.std,
        "values": values,
        "failed": failed,
        "runs": [str(outcome.folder) for outcome in of_run],
    }


def _finished(outcomes: Outcomes, dataset: str, row: Row) -> list[Outcome]:
    return [outcome for outcome in outcomes.get((dataset, row.run), ()) if not outcome.failed]


def _test_split(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    arrays = runs.read_predictions(folder, ["test"])
    return arrays["test_logits"], arrays["test_labels"]


def _early_exits(row: Row, outcome: Outcome) -> EarlyExits:
    """Progressive inference; main alone costs no critics, since no early exit is computed."""
    logits, labels = _test_split(outcome.folder)
    found = _costs_of(outcome)
    if row.of == "main":
        accuracy = measures.accuracy_pct(logits, labels, "main")
        shares = (*(0.0,) * (len(logits) - 1), 1.0)
        return EarlyExits(accuracy, found.macs[-1], 1.0, found.paper_flop[-1], shares)
    return measures.early_exits(logits, labels, float(row.of), found.cascade, found.paper_flop)


def _costs_of(outcome: Outcome) -> Costs:
    facts = stored.read_facts(outcome.folder)
    return costs(outcome.cell.recipe, len(facts.classes), facts.image_shape)
