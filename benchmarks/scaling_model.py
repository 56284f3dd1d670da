"""A model of how fast several processes train: compared with measurements, and applied to larger machines.

    python -m benchmarks.scaling_model

Reads ``benchmarks/results/parallel.json``, writes ``benchmarks/results/scaling_model.json``. Nothing is measured here.

A step takes as long as its slowest process. A process of layer parallel training takes the time of its groups with
their critics, or what the critic at its cut waits for, whichever is more: the way of the activations, the forward
pass of the next group and the way of its losses, over the steps by which the critic may be late.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.networks import SEED
from benchmarks.provenance import RESULTS, provenance, save
from lcprune import recipe as recipes
from lcprune.analysis.counting import count_cost
from lcprune.models import build
from lcprune.training.methods.local_exits import stages_of

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
class Part:
    """What a process does in a step, in seconds."""

    forward_s: float
    """Of its groups and critics, up to what it sends."""
    first_forward_s: float
    """Of its first group and that one's critic."""
    whole_s: float


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
    measured = json.loads((RESULTS / "parallel.json").read_text(encoding="utf-8"))
    save(RESULTS / "scaling_model.json", {**provenance("benchmarks.scaling_model", SEED), **answers(measured)})


def answers(measured: dict[str, Any]) -> dict[str, Any]:
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


def checked(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The model beside the measurements, line by line."""
    link = fitted(measured["link"]["rows"])
    rows = []
    for case in measured["speed"]["rows"]:
        found = {row["side"]: row["speedup"]["median"] for row in case["rows"]}
        for side, speedup in _speedups(case, link).items():
            if side in found:
                rows.append(_compared(case, side, speedup, found[side]))
    for case in measured["slow links"]["rows"]:
        parts = parts_of(case["group_costs"], case["groups_per_rank"])
        sent_bytes = case["bytes_sent_per_step"]
        for row in case["rows"]:
            far = Link(link.latency_s + row["delay_ms"] / 1000, link.bytes_per_s)
            near_s, far_s = (layers_s(parts, sent_bytes, each, row["staleness"]) for each in (link, far))
            what = f"{row['delay_ms']:.0f} ms on the way, staleness {row['staleness']}: throughput kept"
            rows.append(_compared(case, what, near_s / far_s, row["kept"]["median"]))
    return rows


def _compared(case: dict[str, Any], what: str, model: float, measured: float) -> dict[str, Any]:
    return {
        "case": case["case"],
        "batch_size": case["batch_size"],
        "what": what,
        "model": model,
        "measured": measured,
        "off_pct": 100 * (model / measured - 1),
    }


def _speedups(case: dict[str, Any], link: Link) -> dict[str, float]:
    """Of every training of a case, over one process."""
    costs, cut = case["group_costs"], case["groups_per_rank"]
    sent_bytes = case["bytes_sent_per_step"]
    parts = parts_of(costs, cut)
    one_s, main_s = (sum(cost[key] for cost in costs) for key in ("local_s", "main_s"))
    found = {
        "layers": one_s / layers_s(parts, sent_bytes["layers"], link, 0),
        "layers, staleness 1": one_s / layers_s(parts, sent_bytes["layers"], link, 1),
        "data": one_s / (one_s / 2 + link.seconds(sent_bytes["data"][0]) + _statistics_s(case, link)),
    }
    for name, counts in case["pipeline_groups_per_rank"].items():
        stages = [sum(cost["main_s"] for cost in each) for each in _divided(costs, counts)]
        for schedule in ("GPipe", "1F1B"):
            found[f"{schedule}, {name}"] = main_s / pipeline_s(stages)
    return found


def _statistics_s(case: dict[str, Any], link: Link) -> float:
    """Of BatchNorm, which two processes share: a few numbers go to the other in each pass."""
    return case["batch_norms"] * 2 * link.latency_s


def parts_of(costs: Sequence[dict[str, float]], counts: Sequence[int]) -> list[Part]:
    """What every process does, from the costs of single groups and how many consecutive ones each has."""
    return [
        Part(
            forward_s=sum(cost["forward_s"] for cost in each),
            first_forward_s=each[0]["forward_s"],
            whole_s=sum(cost["local_s"] for cost in each),
        )
        for each in _divided(costs, counts)
    ]


def layers_s(parts: Sequence[Part], sent_bytes: Sequence[int], link: Link, staleness: int) -> float:
    """A step of layer parallel training.

    Args:
        parts: Of every process.
        sent_bytes: By each in a step; the losses are nothing beside the activations.
        link: Between neighbours.
        staleness: Steps by which critics at a cut learn late.
    """
    step_s = max(part.whole_s for part in parts)
    for own, behind, size in zip(parts, parts[1:], sent_bytes, strict=False):
        waits_s = own.forward_s + link.seconds(size) + behind.first_forward_s + link.seconds(0)
        step_s = max(step_s, waits_s / (staleness + 1))
    return step_s


def pipeline_s(stages: Sequence[float]) -> float:
    """A step of pipeline parallel backpropagation: the slowest stage, and once the way through the others."""
    micro = [stage / MICRO_BATCHES for stage in stages]
    return (MICRO_BATCHES - 1) * max(micro) + sum(micro)


def predicted(groups: Sequence[Group], machine: Machine, gpus: int, batch: int) -> list[dict[str, Any]]:
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
    critics = [*network.critics, None]
    macs = [
        group + critic for group, critic in zip(cost.cascade.group_macs, (*cost.cascade.critic_macs, 0), strict=True)
    ]
    sizes = []
    stages, _ = stages_of(network, two_passes=False)
    with torch.no_grad():
        hidden = torch.zeros(1, *IMAGENET)
        for stage in stages:
            hidden = stage.next_pool(stage.group(hidden))
            sizes.append(2 * hidden.numel())
    return [
        Group(each, sum(4 * p.numel() for part in both if part is not None for p in part.parameters()), size)
        for each, size, *both in zip(macs, [*sizes, 0], network.groups, critics, strict=True)
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
