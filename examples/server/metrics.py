"""Counters in the text format of Prometheus. Only the event loop writes them, so they need no lock."""

from collections import Counter
from collections.abc import Iterable, Sequence

BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What ``GET /metrics`` says, counted since the start."""

    def __init__(self, exits: Sequence[str], reasons: Iterable[str]) -> None:
        """`exits` and `reasons` are there with 0 from the start, so that rates can be computed."""
        self._exits = list(exits)
        self._requests: Counter[int] = Counter()
        self._images = Counter({index: 0 for index in range(len(self._exits))})
        self._rejected = Counter({reason: 0 for reason in reasons})
        self._in_bucket = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def count_request(self, status: int, seconds: float) -> None:
        """An answer to ``/classify``, whatever it was."""
        self._requests[status] += 1
        self._in_bucket[sum(seconds > bound for bound in BUCKETS_S)] += 1
        self._sum_s += seconds

    def count_images(self, exit_indices: Iterable[int]) -> None:
        """Images that were classified."""
        self._images.update(exit_indices)

    def count_rejected(self, reason: str) -> None:
        """A request that was refused."""
        self._rejected[reason] += 1

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        lines = _counter("lcprune_requests_total", "Answers to /classify, by status.", "status", self._requests.items())
        by_exit = ((self._exits[index], count) for index, count in self._images.items())
        lines += _counter("lcprune_images_total", "Images classified, by the exit where they left.", "exit", by_exit)
        lines += _counter("lcprune_rejected_total", "Requests refused, by reason.", "reason", self._rejected.items())
        name, total = "lcprune_request_duration_seconds", 0
        lines += [f"# HELP {name} From the request to the answer of /classify.", f"# TYPE {name} histogram"]
        for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], self._in_bucket, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_sum {self._sum_s:.6f}", f"{name}_count {total}"]
        return "\n".join(lines) + "\n"


def _counter(name: str, help_text: str, label: str, values: Iterable[tuple[object, int]]) -> list[str]:
    samples = [f'{name}{{{label}="{_escaped(str(value))}"}} {count}' for value, count in values]
    return [f"# HELP {name} {help_text}", f"# TYPE {name} counter", *samples]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
