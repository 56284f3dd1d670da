"""A model of how fast several processes train: compared with measurements, and applied to larger machines.

    python -m benchmarks.scaling_model

Reads ``benchmarks/results/parallel.json``, writes ``benchmarks/results/scaling_model.json``. Nothing is measured here.

A step takes as long as its slowest process. A process of layer parallel training takes the time of its groups with
their critics, or what the critic at its cut waits for, whichever is more: the way of the activations, the forward
pass of the next group and the way of its losses, over the steps by which the critic may be late.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from benchmarks.networks import SEED
from benchmarks.provenance import RESULTS, Row, command_line, provenance, read, save
from lcprune import recipe as recipes
from lcprune.analysis.counting import count_cost, count_params
from lcprune.models import build
from lcprune.training.methods import build_method
from lcprune.training.parallel.placement import hidden_specs

MICRO_BATCHES = 4
IMAGENET = (3, 224, 224)
CLASSES = 1000


@dataclass(frozen=True)
class Link:
    """A way for messages."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, size_bytes: float) -> float:
        """Until a message has arrived."""
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Machine:
    """Nodes of GPUs, as it is assumed."""

    name: str
    gpus_per_node: int
    images_per_s: float
    """Of main, trained with backpropagation on one GPU, at any batch."""
    inside: Link
    """Between two GPUs of a node."""
    outside: Link
    """Of a whole node to the others: its GPUs share it."""


@dataclass(frozen=True)
class Group:
    """A layer group of the network with its critic, for one image."""

    macs: int
    gradient_bytes: int
    sent_bytes: int
    """What goes on to the next group, in bfloat16."""


FAST = Machine("400 GB/s inside, 200 GB/s outside", 8, 2500.0, Link(5e-6, 4e11), Link(1e-5, 2e11))
PLAIN = Machine("400 GB/s inside, 10 Gbit/s outside", 8, 2500.0, Link(5e-6, 4e11), Link(1e-4, 1.25e9))
MACHINES = (FAST, PLAIN)
GPUS = (8, 16, 32, 64, 128, 256)
BATCH = 4096


def main() -> None:
    """Writes the result file."""
    command_line("benchmarks.scaling_model", __doc__).parse_args()
    found = answers(read(RESULTS / "parallel.json"))
    save(RESULTS / "scaling_model.json", {**provenance("benchmarks.scaling_model", SEED), **found})


def answers(measured: Row) -> Row:
    """The model compared with the measurements, and its predictions.

    Args:
        measured: The content of ``parallel.json``.
    """
    groups = resnet50_groups()
    return {
        "link": asdict(fitted(measured["link"]["rows"])),
        "check": checked(measured),
        "machines": [asdict(machine) for machine in MACHINES],
        "batch": BATCH,
        "groups": [asdict(group) for group in groups],
        "rows": [row for machine in MACHINES for gpus in GPUS for row in predicted(groups, machine, gpus, BATCH)],
    }


def fitted(rows: Sequence[dict[str, float]]) -> Link:
    """Latency from the smallest message, bandwidth from the largest."""
    small, large = (pick(rows, key=lambda row: row["bytes"]) for pick in (min, max))
    rate = (large["bytes"] - small["bytes"]) / (large["one_way_s"] - small["one_way_s"])
    return Link(small["one_way_s"] - small["bytes"] / rate, rate)


def checked(measured: Row) -> list[Row]:
    """The model beside the measurements, line by line."""
    link = fitted(measured["link"]["rows"])
    rows = []
    for case in measured["speed"]["rows"]:
        found = {row["side"]: row["speedup"]["median"] for row in case["rows"]}
        for side, speedup in _speedups(case, link).items():
            if side in found:
                rows.append(_compared(case, side, speedup, found[side]))
    for case in measured["slow links"]["rows"]:
        parts = _divided(case["group_costs"], case["groups_per_rank"])
        sent_bytes = case["bytes_sent_per_step"]
        for row in case["rows"]:
            far = Link(link.latency_s + row["delay_ms"] / 1000, link.bytes_per_s)
            near_s, far_s = (layers_s(parts, sent_bytes, each, row["staleness"]) for each in (link, far))
            what = f"{row['delay_ms']:.0f} ms on the way, staleness {row['staleness']}: throughput kept"
            rows.append(_compared(case, what, near_s / far_s, row["kept"]["median"]))
    return rows


def _compared(case: Row, what: str, model: float, measured: float) -> Row:
    about = {"case": case["case"], "batch_size": case["batch_size"], "what": what}
    return {**about, "model": model, "measured": measured, "off_pct": 100 * (model / measured - 1)}


def _speedups(case: Row, link: Link) -> dict[str, float]:
    """Of every training of a case, over one process."""
    costs, cut = case["group_costs"], case["groups_per_rank"]
    sent_bytes = case["bytes_sent_per_step"]
    parts = _divided(costs, cut)
    statistics_s = case["batch_norms"] * 2 * link.latency_s  # a few numbers of each BatchNorm, in each pass
    one_s, main_s = (sum(cost[key] for cost in costs) for key in ("local_s", "main_s"))
    found = {
        "layers": one_s / layers_s(parts, sent_bytes["layers"], link, 0),
        "layers, staleness 1": one_s / layers_s(parts, sent_bytes["layers"], link, 1),
        "data": one_s / (one_s / 2 + link.seconds(sent_bytes["data"][0]) + statistics_s),
    }
    for name, counts in case["pipeline_groups_per_rank"].items():
        stages = [sum(cost["main_s"] for cost in each) for each in _divided(costs, counts)]
        for schedule in ("GPipe", "1F1B"):
            found[f"{schedule}, {name}"] = main_s / pipeline_s(stages)
    return found


def layers_s(parts: Sequence[Sequence[Row]], sent_bytes: Sequence[int], link: Link, staleness: int) -> float:
    """A step of layer parallel training.

    Args:
        parts: The costs of the groups of every process, with their critics.
        sent_bytes: By each in a step; the losses are nothing beside the activations.
        link: Between neighbours.
        staleness: Steps by which critics at a cut learn late.
    """
    step_s = max(sum(cost["local_s"] for cost in part) for part in parts)
    for own, behind, size in zip(parts, parts[1:], sent_bytes, strict=False):
        ways_s = link.seconds(size) + link.seconds(0)
        waits_s = sum(cost["forward_s"] for cost in own) + ways_s + behind[0]["forward_s"]
        step_s = max(step_s, waits_s / (staleness + 1))
    return step_s


def pipeline_s(stages: Sequence[float]) -> float:
    """A step of pipeline parallel backpropagation: the slowest stage, and once the way through the others."""
    micro = [stage / MICRO_BATCHES for stage in stages]
    return (MICRO_BATCHES - 1) * max(micro) + sum(micro)


def predicted(groups: Sequence[Group], machine: Machine, gpus: int, batch: int) -> list[Row]:
    """Images/s of some GPUs that divide batches, and of those that divide layers as well; a fixed batch in all."""
    rows = []
    for stages in (1, len(groups)):
        held = [groups] if stages == 1 else [[group] for group in groups]
        replicas = gpus // stages
        share = batch / replicas
        step_s = max(stage_s(held, index, machine, replicas, share) for index in range(len(held)))
        alone_s = batch * _seconds_of_an_image(groups, machine)
        row = {"machine": machine.name, "gpus": gpus, "stages": stages, "replicas": replicas}
        rows.append({**row, "images_per_s": batch / step_s, "efficiency_pct": 100 * alone_s / gpus / step_s})
    return rows


def stage_s(held: Sequence[Sequence[Group]], index: int, machine: Machine, replicas: int, images: float) -> float:
    """A step of one process.

    Args:
        held: Layer groups of every stage.
        index: The stage of this process; its replicas are neighbours, and fill nodes stage by stage.
        machine: What they run on.
        replicas: Processes that share a stage.
        images: Of this process, in a step.
    """
    groups = held[index]
    compute_s = images * _seconds_of_an_image(groups, machine)
    gradients = sum(group.gradient_bytes for group in groups)
    link = machine.outside if replicas > machine.gpus_per_node else machine.inside
    reduce_s = 0.0
    if replicas > 1:
        hops = 2 * math.ceil(math.log2(replicas))
        reduce_s = 2 * (replicas - 1) / replicas * gradients / link.bytes_per_s + hops * link.latency_s
    step_s = compute_s / 3 + max(2 * compute_s / 3, reduce_s)  # all-reduces run beside the backward pass
    if index == len(held) - 1:
        return step_s
    sent = images * groups[-1].sent_bytes
    own_node, next_node = (stage * replicas // machine.gpus_per_node for stage in (index, index + 1))
    if own_node == next_node:
        return max(step_s, machine.inside.seconds(sent))
    senders = min(replicas, machine.gpus_per_node)  # through the one link of a node
    return max(step_s, machine.outside.seconds(sent * senders))


def resnet50_groups() -> list[Group]:
    """The groups of ``resnet50_imagenet``."""
    recipe = recipes.load("resnet50_imagenet", [])
    network = build(recipe, CLASSES, IMAGENET, (0.5,) * 3, (0.25,) * 3).eval()
    cost = count_cost(network, IMAGENET)
    hidden = hidden_specs(recipe, build_method(recipe, network), IMAGENET, 1, torch.device("cpu"))
    sizes = [2 * math.prod(spec.shape) for spec in hidden]
    found = zip_longest(cost.cascade.group_macs, cost.cascade.critic_macs, sizes, fillvalue=0)
    parts = zip_longest(network.groups, network.critics, fillvalue=nn.Identity())
    return [
        Group(group + critic, 4 * sum(count_params(part) for part in both), size)
        for (group, critic, size), both in zip(found, parts, strict=True)
    ]


def _seconds_of_an_image(groups: Sequence[Group], machine: Machine) -> float:
    """On one GPU, where critics cost what their MACs say."""
    return sum(group.macs for group in groups) / (machine.images_per_s * _MAIN_MACS)


_MAIN_MACS = 4_089_184_256
"""Of main, for an image (docs/networks.md)."""


def _divided(costs: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [costs[end - count : end] for end, count in zip(ends, counts, strict=True)]


if __name__ == "__main__":
    main()
