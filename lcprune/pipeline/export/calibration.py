"""Which exits a file keeps, and when rows leave them: calibrated for a budget, or named by the user."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lcprune import runs
from lcprune.analysis.budget import Calibration, Family
from lcprune.analysis.evaluate import drop_pct, within
from lcprune.analysis.thresholds import Alternatives, Pay, Rows
from lcprune.errors import BudgetError, ExportError
from lcprune.exits import exit_label
from lcprune.pipeline.export.latency_cost import CascadeLatency, cascade_latency
from lcprune.pipeline.export.loaded_run import LoadedRun
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores
from lcprune.pipeline.select import deciding_split
from lcprune.specs import Criterion

DEFAULT_MAX_DROP_PCT = 0.5


@dataclass(frozen=True)
class Decision:
    """Which early exits a file keeps, and when images take them; a sub-model has none."""

    exits: tuple[int, ...]
    """``exit_index`` of the early exits, ascending."""
    thresholds: tuple[float, ...]
    criterion: Criterion
    temperatures: tuple[float, ...]
    """Of the kept exits and main."""
    content: dict[str, Any] | None = None
    """As in ``thresholds.json``; None where the thresholds were not calibrated."""
    price: float = 0.0
    """Of a lost image, in the cost of main, that gave the thresholds."""


@dataclass(frozen=True)
class _Budget:
    """What may be spent: accuracy, or the mean cost of an image."""

    kind: Literal["max_drop_pct", "max_macs", "max_latency_ms"]
    limit: float
    pay: Pay
    """The quantity with the limit, and for a drop the one to minimise: MACs or milliseconds up to each exit."""
    timed: bool
    """Whether `pay` is in milliseconds."""
    confidence: float | None

    def spend(self, rows: Alternatives, exits: Sequence[int] | None, least_price: float = 0.0) -> Calibration:
        """The best setting within the budget, which has an early exit; see `Family`.

        Raises:
            BudgetError: If there is none.
        """
        family = Family(rows, exits, self.pay)
        if self.kind == "max_drop_pct":
            found = family.within_drop(self.limit, self.confidence, least_price)
        else:
            found = family.within_cost(self.limit)
            if found is None:
                raise _too_dear(self, exits)
        if found is None or not found.exits:
            raise _no_exit_pays(self, family)
        return found


def decide(loaded: LoadedRun, request: ExportRequest, notice: Callable[[str], None]) -> Decision:
    """The early exits that are kept in float32, and their thresholds.

    Raises:
        BudgetError: If no early exit pays within the budget.
        ExportError: If the user names exits or thresholds that are none.
    """
    if not request.progressive:
        return Decision((), (), "softmax", (1.0,))
    if not request.calibrates:
        return exits_by_hand(loaded, request)

    def latency() -> CascadeLatency:
        notice("measuring how long an image takes to every exit")
        return cascade_latency(loaded.network, loaded.parity_images)

    return calibrate_exits(loaded, request, latency)


def calibrate_exits(
    loaded: LoadedRun, request: ExportRequest, latency: Callable[[], CascadeLatency] | None = None
) -> Decision:
    """Exits, criterion and thresholds that are best within the budget.

    Args:
        loaded: The run.
        request: Names the budget.
        latency: Measures the cascade; asked only where a time is limited, or to be least.

    Raises:
        BudgetError: If no early exit pays, or every setting is dearer than the budget.
    """
    split = deciding_split(loaded.labels, request.use_test_split)
    budget = _budget(loaded, request, loaded.costs.cascade.exit_macs, latency)
    rows = {criterion: of_split[split] for criterion, of_split in loaded.scores.by_criterion.items()}
    _refuse_what_the_last_exit_loses(loaded, budget, next(iter(rows.values())))
    found = budget.spend(rows, None if request.exits is None else _exit_indices(loaded, request.exits))
    temperatures = loaded.scores.temperatures
    of_file = tuple(temperatures[exit_index] for exit_index in (*found.exits, len(temperatures) - 1))
    content = _content(loaded, request, budget, found, of_file)
    return Decision(found.exits, found.thresholds, found.criterion, of_file, content, found.price)


def recalibrate(
    loaded: LoadedRun,
    request: ExportRequest,
    own: ExitScores,
    chosen: Decision,
    latency: Callable[[], CascadeLatency] | None = None,
) -> Decision:
    """`chosen` with thresholds for the logits of another precision; drops are measured from float32's main.

    A lost image costs no less than in float32: a second choice on the same images would be a second chance of luck.

    Args:
        loaded: The run.
        request: Names the budget and the precision.
        own: Of the logits in that precision; its exits are those of the file.
        chosen: For float32.
        latency: As for `calibrate_exits`.

    Raises:
        BudgetError: As `calibrate_exits`, and if the last exit alone loses more than the budget.
    """
    split = deciding_split(loaded.labels, request.use_test_split)
    rows = own.by_criterion[chosen.criterion][split]
    budget = _budget(loaded, request, rows.cost.exit_macs, latency)
    _refuse_what_the_last_exit_loses(loaded, budget, rows, request.precision)
    found = budget.spend({chosen.criterion: rows}, range(len(chosen.exits)), chosen.price)
    temperatures = own.temperatures
    content = _content(loaded, request, budget, found, temperatures) | {"exits": chosen.exits}
    return replace(chosen, thresholds=found.thresholds, temperatures=temperatures, content=content)


def _refuse_what_the_last_exit_loses(
    loaded: LoadedRun, budget: _Budget, rows: Rows, precision: str | None = None
) -> None:
    lost_pct = drop_pct(rows.main_correct, rows.correct[-1])
    if budget.kind != "max_drop_pct" or within(lost_pct, budget.limit):
        return
    what = f"in {precision} {loaded.costs.exits[-1].name}" if precision else loaded.costs.exits[-1].name
    raise BudgetError(
        f"{what} alone loses {lost_pct:.2f} points against float32's main; {budget.limit:g} are allowed",
        "allow more with --max-drop, or "
        + ("export with --precision fp32 or w8" if precision else "let the graph go on: a later --exit, or none"),
    )


def exits_by_hand(loaded: LoadedRun, request: ExportRequest) -> Decision:
    """The exits and thresholds that the user names."""
    every = tuple(range(len(loaded.network.groups) - 1))
    kept = _exit_indices(loaded, request.exits) if request.exits else every
    try:
        values = [float(part) for part in request.threshold.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise ExportError(f"--threshold {request.threshold} is no threshold", "write auto, 0.9, or one for each exit")
    if len(values) not in (1, len(kept)):
        raise ExportError(
            f"--threshold gives {len(values)} thresholds for {len(kept)} early exits",
            "give one for all, or one for each",
        )
    thresholds = tuple(values) if len(values) == len(kept) else tuple(values) * len(kept)
    (criterion,) = loaded.scores.by_criterion
    return Decision(kept, thresholds, criterion, (1.0,) * (len(kept) + 1))


def _budget(
    loaded: LoadedRun, request: ExportRequest, exit_macs: Pay, latency: Callable[[], CascadeLatency] | None
) -> _Budget:
    """What was asked for, else the points that the selection allowed."""
    timed = request.max_latency_ms is not None or request.minimize == "latency"
    if timed and latency is None:
        raise ValueError("a budget of time needs times")
    pay = latency().exit_ms if timed and latency is not None else exit_macs
    if request.max_latency_ms is not None:
        return _Budget("max_latency_ms", request.max_latency_ms, pay, timed, None)
    if request.max_macs is not None:
        return _Budget("max_macs", request.max_macs, pay, timed, None)
    return _Budget("max_drop_pct", _max_drop_pct(loaded, request), pay, timed, request.confidence)


def _max_drop_pct(loaded: LoadedRun, request: ExportRequest) -> float:
    if request.max_drop_pct is not None:
        return request.max_drop_pct
    if not (loaded.folder / runs.SELECTION).exists():
        return DEFAULT_MAX_DROP_PCT
    selection = runs.read_json(runs.require(loaded.folder, runs.SELECTION, f"lcprune select {loaded.folder}"))
    return float(selection["budget"]["max_drop_pct"])


def _content(
    loaded: LoadedRun, request: ExportRequest, budget: _Budget, found: Calibration, temperatures: Sequence[float]
) -> dict[str, Any]:
    """As in ``thresholds.json``."""
    split = deciding_split(loaded.labels, request.use_test_split)
    content = {
        "decided_on": split,
        "deciding_images": len(loaded.labels[split]),
        "max_drop_pct": None,
        budget.kind: budget.limit,
        "confidence": request.confidence,
        "precision": request.precision,
        "minimize": request.minimize,
        "temperatures": list(temperatures),
        **asdict(found),
        "last": loaded.costs.exits[-1].name,
        "macs_ratio": found.mean_macs / loaded.info.main_macs,
    }
    if budget.timed:
        content["mean_latency_ms"] = sum(
            paid * share for paid, share in zip(budget.pay(found.exits), found.exit_fractions, strict=True)
        )
    return content


def _too_dear(budget: _Budget, exits: Sequence[int] | None) -> BudgetError:
    first = budget.pay(exits)[0]
    if budget.kind == "max_macs":
        limit, least, option = f"{budget.limit:,.0f} MACs", f"{first:,} MACs", f"--max-macs {first}"
    else:
        least_ms = math.ceil(first * 1000) / 1000
        limit, least, option = f"{budget.limit:g} ms", f"{least_ms:g} ms", f"--max-latency-ms {least_ms:g}"
    return BudgetError(
        f"no thresholds keep the mean of an image within {limit}: where all leave at the first exit it is {least}",
        f"allow {option}, or train a narrower network (model.width)",
    )


def _no_exit_pays(budget: _Budget, family: Family) -> BudgetError:
    if budget.kind != "max_drop_pct":
        return BudgetError(
            "within this budget nothing is more accurate than main alone", "export main with --exit main, or allow less"
        )
    held = f" with confidence {budget.confidence}" if budget.confidence else ""
    otherwise = (
        "allow more with --max-drop, export main with --exit main, or train cheaper critics (critics.head: pooled)"
    )
    needed = family.images_to_defend(budget.limit)
    if needed is not None and family.n < needed:
        return BudgetError(
            f"on {family.n:,} images no early exit can be shown to lose at most {budget.limit:g} points{held}",
            f"decide on about {needed:,} images (data.val_size), {otherwise}",
        )
    return BudgetError(f"no early exit pays within {budget.limit:g} points{held}: main alone is cheapest", otherwise)


def _exit_indices(loaded: LoadedRun, exits: Sequence[str]) -> tuple[int, ...]:
    early = [exit_label(cost.name) for cost in loaded.costs.exits[:-1]]
    if absent := [label for label in exits if label not in early]:
        raise ExportError(
            f"--exits: there is no early exit {absent[0]} before {loaded.costs.exits[-1].name}",
            f"name some of {', '.join(early)}",
        )
    return tuple(sorted(early.index(label) for label in exits))
