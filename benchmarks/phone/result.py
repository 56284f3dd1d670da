"""The result of the comparison: what the validation images chose in every fold, and what the test images say."""

from collections.abc import Mapping, Sequence

from benchmarks.phone.pooled import best_within, compared, pooled, quickest_at, val_accuracy_pct
from benchmarks.provenance import Row
from benchmarks.pruning_comparison import frontier

WAY = "both"
"""The variant of ours that is held against the plain way."""
ASKED = 128
"""Input size, in pixels, of the plain model whose accuracy is asked of progressive models."""


def result(folds: Sequence[Row]) -> Row:
    """All tables.

    Args:
        folds: As `measure.measured` gives them, with ``expected_pct`` by the name of each file of ours, ``plain`` (the
            training of every size) and ``ours`` (of every variant).
    """
    return {
        "images": {"folds": len(folds), "test": sum(len(_any_file(fold)["test"]["correct"]) for fold in folds)},
        "training": trainings(folds),
        "rows": rows(folds),
        "against_plain": against_plain(folds),
        "at_plain_accuracy": at_plain_accuracy(folds),
        "against_main": against_main(folds),
    }


def rows(folds: Sequence[Row]) -> list[Row]:
    """Every file that all folds of its variant have, and whether no quicker file of its way and kind is as accurate.

    Kinds are float32, sub-models in int8, and progressive models in int8.
    """
    names = dict.fromkeys(name for fold in folds for name in fold["files"])
    found = []
    for name in names:
        having = [fold for fold in folds if name in fold["files"]]
        if len(having) == len([fold for fold in folds if way(name) in ways(fold)]) or way(name) == "plain":
            found.append({"name": name, "way": way(name), **pooled(having, [name] * len(having))})
    kinds = [(row["way"], "int8" in row["name"], "progressive" in row["name"]) for row in found]
    for kind in dict.fromkeys(kinds):
        alike = [row for row, own in zip(found, kinds, strict=True) if own == kind]
        best = set(frontier(alike, "latency_ms"))
        for row in alike:
            row["on_frontier"] = (row["latency_ms"], row["test_accuracy_pct"]) in best
    return found


def against_plain(folds: Sequence[Row]) -> list[Row]:
    """For every plain model in int8, the best expected of ours among those that are no slower on validation images."""
    found = []
    for name in dict.fromkeys(name for fold in folds for name in fold["files"] if is_plain_int8(name)):
        having = [fold for fold in folds if name in fold["files"] and WAY in ways(fold)]
        chosen = [
            best_within(fold, of_ours(fold), fold["files"][name]["val"]["ms"], fold["expected_pct"]) for fold in having
        ]
        quick = [(fold, each) for fold, each in zip(having, chosen, strict=True) if each is not None]
        if quick:
            some, mine = zip(*quick, strict=True)
            found.append({"plain": name, **compared(some, mine, [name] * len(some))})
    return found


def at_plain_accuracy(folds: Sequence[Row]) -> Row:
    """The quickest progressive model of which the accuracy of the plain int8 one is expected, beside that one."""
    name = f"plain {ASKED} px, int8"
    having = [fold for fold in folds if WAY in ways(fold) and any("progressive" in each for each in of_ours(fold))]
    chosen = []
    for fold in having:
        progressive = [each for each in of_ours(fold) if "progressive" in each]
        chosen.append(quickest_at(fold, progressive, val_accuracy_pct(fold, name), fold["expected_pct"]))
    return compared(having, chosen, [name] * len(having)) if having else {}


def against_main(folds: Sequence[Row]) -> list[Row]:
    """Progressive models in int8 beside int8 main of the same run, for every variant and budget."""
    found = []
    for name in dict.fromkeys(name for fold in folds for name in fold["files"] if "progressive" in name):
        having = [fold for fold in folds if name in fold["files"]]
        mains = [main_of(fold, way(name)) for fold in having]
        found.append({"name": name, "way": way(name), **compared(having, [name] * len(having), mains)})
    return found


def trainings(folds: Sequence[Row]) -> Row:
    """CPU seconds of training, the mean over the folds: of every plain network, and of every variant of ours."""
    plain: dict[str, list[float]] = {}
    ours: dict[str, list[float]] = {}
    for fold in folds:
        for row in fold["plain"]:
            plain.setdefault(str(row["size"]), []).append(row["cpu_s"])
        for row in fold["ours"]:
            if row["cpu_s"] is not None:
                ours.setdefault(row["variant"], []).append(row["cpu_s"])
    return {"plain_cpu_s": _means(plain), "ours_cpu_s": _means(ours)}


def way(name: str) -> str:
    """``plain``, or the variant of ours that a file comes from."""
    return "plain" if name.startswith("plain") else name.partition(":")[0]


def ways(fold: Row) -> set[str]:
    """Those that a fold has files of."""
    return {way(name) for name in fold["files"]}


def of_ours(fold: Row) -> list[str]:
    """Files in int8 of the variant that is held against the plain way."""
    return [name for name in fold["files"] if way(name) == WAY and "int8" in name]


def is_plain_int8(name: str) -> bool:
    """Whether a file is a quantised one of the plain way."""
    return way(name) == "plain" and "int8" in name


def main_of(fold: Row, variant: str) -> str:
    """Int8 main of a run, at its largest size."""
    mains = [name for name in fold["files"] if name.startswith(f"{variant}: main") and "int8" in name]
    return max(mains, key=lambda name: fold["files"][name]["val"]["ms"])


def _any_file(fold: Row) -> Row:
    return dict(next(iter(fold["files"].values())))


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(each) / len(each) for name, each in values.items()}
