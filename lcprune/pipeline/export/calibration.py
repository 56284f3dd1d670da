"""Which exits a file keeps, and when rows leave them: calibrated for a budget, or named by the user."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lcprune import runs
from lcprune.analysis.criterion import Criterion
from lcprune.analysis.evaluate import CascadeCost, accuracy_pct, drop_pct, within
from lcprune.analysis.thresholds import Calibration, Rows, calibrate_rows, halves, most_accurate, simulate
from lcprune.errors import BudgetError, ExportError
from lcprune.pipeline.export.latency_cost import NS_PER_MS
from lcprune.pipeline.export.loaded import Loaded
from lcprune.pipeline.export.reduced import ReducedNetwork
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.select import deciding_split

DEFAULT_MAX_DROP_PCT = 0.5


@dataclass(frozen=True)
class Decision:
    """What a progressive file keeps, and when rows leave it."""

    exits: tuple[int, ...]
    """``exit_index`` of the early exits, ascending."""
    thresholds: tuple[float, ...]
    criterion: Criterion
    temperatures: tuple[float, ...]
    """Of the kept exits and main."""
    content: dict[str, Any] | None = None
    """As in ``thresholds.json``; None where the user named the thresholds."""


@dataclass(frozen=True)
class _Budget:
    """What may be spent: accuracy, or the mean cost of an image."""

    kind: Literal["max_drop_pct", "max_macs", "max_latency_ms"]
    limit: float
    cost: CascadeCost
    """What the limit is about, and for a drop what becomes least."""
    timed: bool
    """Whether `cost` is nanoseconds, not MACs."""
    confidence: float | None
    seed: int

    @property
    def max_mean(self) -> float:
        """The limit in the unit of `cost`."""
        return self.limit * NS_PER_MS if self.kind == "max_latency_ms" else self.limit

    def spend(self, rows: Rows, exits: Sequence[int] | None) -> Calibration | None:
        """The best setting within the budget; None where every one is dearer."""
        if self.kind == "max_drop_pct":
            found = calibrate_rows(replace(rows, cost=self.cost), self.limit, exits, self.confidence, self.seed)
            in_macs = simulate(rows, found.exits, found.thresholds)
            return replace(found, mean_macs=in_macs.mean_macs, macs_ratio=in_macs.macs_ratio)
        return most_accurate(rows, self.cost, self.max_mean, exits)

    def worth(self, found: Calibration | None) -> tuple[float, float]:
        """What a setting is chosen by; the least is the best."""
        if found is None:
            return math.inf, math.inf
        mean_cost = self.mean_cost(found)
        return (mean_cost, found.drop_pct) if self.kind == "max_drop_pct" else (found.drop_pct, mean_cost)

    def mean_cost(self, found: Calibration) -> float:
        """Of an image, in the unit of `cost`."""
        of_exits = self.cost.exit_macs(found.exits)
        return sum(cost * fraction for cost, fraction in zip(of_exits, found.exit_fractions, strict=True))


def calibrate_exits(
    loaded: Loaded, request: ExportRequest, latency: Callable[[], CascadeCost] | None = None
) -> Decision:
    """Exits, criterion and thresholds that are best within the budget.

    Args:
        loaded: The run.
        request: Names the budget.
        latency: Measures the cascade, in nanoseconds; asked only where the budget is a time.

    Raises:
        BudgetError: If no early exit pays, or every setting is dearer than the budget.
    """
    split = deciding_split(loaded.labels, request.use_test_split)
    budget = _budget(loaded, request, loaded.costs.cascade, latency)
    _refuse_what_the_last_exit_loses(loaded, budget, split)
    exits = None if request.exits is None else _exit_indices(loaded, request.exits)
    rows = {criterion: of_split[split] for criterion, of_split in loaded.readings.by_criterion.items()}
    criterion = _best_criterion(budget, rows, exits)
    calibration = _spent(budget, rows[criterion], exits, request)
    temperatures = loaded.readings.temperatures
    of_file = tuple(temperatures[exit_index] for exit_index in (*calibration.exits, len(temperatures) - 1))
    content = _content(split, request, budget, criterion, of_file) | asdict(calibration) | _ends(loaded, calibration)
    return Decision(calibration.exits, calibration.thresholds, criterion, of_file, _timed(content, budget, calibration))


def recalibrate(
    loaded: Loaded,
    request: ExportRequest,
    own: ReducedNetwork,
    chosen: Decision,
    latency: Callable[[], CascadeCost] | None = None,
) -> Decision:
    """`chosen` with thresholds for the logits of another precision.

    What main loses to the precision is taken off a budget of points: the drop is against float32's main, and never
    more than the budget against its own.

    Raises:
        BudgetError: As `calibrate_exits`, and if main alone loses more than the budget.
    """
    split = deciding_split(loaded.labels, request.use_test_split)
    rows = own.readings.by_criterion[chosen.criterion][split]
    budget = _budget(loaded, request, rows.cost, latency)
    main_pct = accuracy_pct(loaded.readings.by_criterion[chosen.criterion][split].main_correct)
    last_pct = max(0.0, round(main_pct - accuracy_pct(rows.correct[-1]), 6))
    lost_pct = last_pct if loaded.is_whole else 0.0  # of another last exit the rows know what it loses
    if budget.kind == "max_drop_pct":
        if not within(last_pct, budget.limit):
            name = loaded.costs.exits[-1].name
            raise BudgetError(
                f"in {request.precision} {name} alone loses {last_pct:.2f} points; {budget.limit:g} are allowed",
                "allow more with --max-drop, or export with --precision fp32 or w8",
            )
        budget = replace(budget, limit=max(0.0, budget.limit - lost_pct))
    calibration = _spent(budget, rows, range(len(chosen.exits)), request)
    temperatures = own.readings.temperatures
    content = _content(split, request, budget, chosen.criterion, temperatures) | asdict(calibration)
    content |= _ends(loaded, calibration) | {
        "exits": chosen.exits,
        "drop_pct": round(main_pct - calibration.accuracy_pct, 6),
    }
    if calibration.drop_upper_pct is not None:
        content["drop_upper_pct"] = calibration.drop_upper_pct + lost_pct
    content = _timed(content, budget, calibration)
    return replace(chosen, thresholds=calibration.thresholds, temperatures=temperatures, content=content)


def _refuse_what_the_last_exit_loses(loaded: Loaded, budget: _Budget, split: str) -> None:
    if loaded.is_whole or budget.kind != "max_drop_pct":
        return
    rows = next(iter(loaded.readings.by_criterion.values()))[split]
    lost_pct = drop_pct(rows.main_correct, rows.correct[-1])
    if not within(lost_pct, budget.limit):
        name = loaded.costs.exits[-1].name
        raise BudgetError(
            f"{name} alone loses {lost_pct:.2f} points; {budget.limit:g} are allowed",
            "allow more with --max-drop, or let the graph go on: a later --exit, or none",
        )


def _ends(loaded: Loaded, calibration: Calibration) -> dict[str, Any]:
    """What ``thresholds.json`` says of where the cascade ends."""
    return {"last": loaded.costs.exits[-1].name, "macs_ratio": calibration.mean_macs / loaded.main_macs}


def exits_by_hand(loaded: Loaded, request: ExportRequest) -> Decision:
    """The exits and thresholds that the user names."""
    every = tuple(range(1, len(loaded.network.groups)))
    kept = _exit_indices(loaded, request.exits or every)
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
    (criterion,) = loaded.readings.by_criterion
    return Decision(kept, thresholds, criterion, (1.0,) * (len(kept) + 1))


def write_thresholds(loaded: Loaded, decision: Decision) -> None:
    """Writes ``thresholds.json`` of the run, if thresholds were calibrated."""
    if decision.content is not None:
        runs.write_json(loaded.folder / runs.THRESHOLDS, decision.content)
        runs.record(loaded.folder, runs.THRESHOLDS, made_from=[runs.PREDICTIONS])


def _best_criterion(budget: _Budget, rows: Mapping[Criterion, Rows], exits: Sequence[int] | None) -> Criterion:
    """The one with which the budget goes furthest; with a confidence, on the half that does not decide."""
    if len(rows) == 1:
        return next(iter(rows))
    if budget.confidence is not None:
        searched, _ = halves(next(iter(rows.values())).n, budget.seed)
        rows = {criterion: of_criterion.take(searched) for criterion, of_criterion in rows.items()}
        budget = replace(budget, confidence=None)
    return min(rows, key=lambda criterion: budget.worth(budget.spend(rows[criterion], exits)))


def _spent(budget: _Budget, rows: Rows, exits: Sequence[int] | None, request: ExportRequest) -> Calibration:
    """The best setting, which has an early exit.

    Raises:
        BudgetError: If there is none.
    """
    calibration = budget.spend(rows, exits)
    if calibration is None:
        raise _too_dear(budget, exits)
    if not calibration.exits:
        raise _no_exit_pays(budget, request)
    return calibration


def _budget(
    loaded: Loaded, request: ExportRequest, macs: CascadeCost, latency: Callable[[], CascadeCost] | None
) -> _Budget:
    """What was asked for, else the points that the selection allowed."""
    seed = loaded.recipe.train.seed
    timed = request.max_latency_ms is not None or request.minimize == "latency"
    if timed and latency is None:
        raise ValueError("a budget of time needs times")
    cost = latency() if timed and latency is not None else macs
    if request.max_latency_ms is not None:
        return _Budget("max_latency_ms", request.max_latency_ms, cost, timed, None, seed)
    if request.max_macs is not None:
        return _Budget("max_macs", request.max_macs, cost, timed, None, seed)
    return _Budget("max_drop_pct", _max_drop_pct(loaded, request), cost, timed, request.confidence, seed)


def _max_drop_pct(loaded: Loaded, request: ExportRequest) -> float:
    if request.max_drop_pct is not None:
        return request.max_drop_pct
    if not (loaded.folder / runs.SELECTION).exists():
        return DEFAULT_MAX_DROP_PCT
    selection = runs.read_json(runs.require(loaded.folder, runs.SELECTION, f"lcprune select {loaded.folder}"))
    return float(selection["budget"]["max_drop_pct"])


def _content(
    split: str, request: ExportRequest, budget: _Budget, criterion: Criterion, temperatures: Sequence[float]
) -> dict[str, Any]:
    """The head of ``thresholds.json``."""
    return {
        "decided_on": split,
        "max_drop_pct": None,
        budget.kind: budget.limit,
        "confidence": request.confidence,
        "precision": request.precision,
        "minimize": request.minimize,
        "criterion": criterion,
        "temperatures": list(temperatures),
    }


def _timed(content: dict[str, Any], budget: _Budget, calibration: Calibration) -> dict[str, Any]:
    """`content`, and the mean time of an image where times were measured."""
    if not budget.timed:
        return content
    return {**content, "mean_latency_ms": budget.mean_cost(calibration) / NS_PER_MS}


def _too_dear(budget: _Budget, exits: Sequence[int] | None) -> BudgetError:
    first = budget.cost.exit_macs(exits)[0]
    if budget.kind == "max_macs":
        limit, least, option = f"{budget.limit:,.0f} MACs", f"{first:,} MACs", f"--max-macs {first}"
    else:
        least_ms = math.ceil(first / NS_PER_MS * 1000) / 1000
        limit, least, option = f"{budget.limit:g} ms", f"{least_ms:g} ms", f"--max-latency-ms {least_ms:g}"
    return BudgetError(
        f"no thresholds keep the mean of an image within {limit}: where all leave at the first exit it is {least}",
        f"allow {option}, or train a narrower network (model.width)",
    )


def _no_exit_pays(budget: _Budget, request: ExportRequest) -> BudgetError:
    if budget.kind != "max_drop_pct":
        return BudgetError(
            "within this budget nothing is more accurate than main alone", "export main with --exit main, or allow less"
        )
    held = f" with confidence {request.confidence}" if request.confidence else ""
    return BudgetError(
        f"no early exit pays within {budget.limit:g} points{held}: main alone is cheapest",
        "allow more with --max-drop, export main with --exit main, or train cheaper critics (critics.head: pooled)",
    )


def _exit_indices(loaded: Loaded, exits: Sequence[int]) -> tuple[int, ...]:
    early = len(loaded.network.groups) - 1
    if absent := [k for k in exits if k > early]:
        raise ExportError(
            f"--exits: there is no early exit {absent[0]} before {loaded.costs.exits[-1].name}",
            f"name some of {', '.join(str(k) for k in range(1, early + 1))}",
        )
    return tuple(k - 1 for k in exits)
