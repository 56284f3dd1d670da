"""The paper's figures, as they ship."""

import pytest

from lcprune.paper import printed
from lcprune.paper.targets import TARGETS


@pytest.mark.parametrize(
    ("name", "dataset", "row", "expected"),
    [
        ("table1", "cifar10", "lc_3", (92.39, 0.09)),
        ("table1", "cifar100", "dni_3", (36.53, 0.64)),
        ("table8", "cifar100", "resnet101_lc_3", (72.72, None)),
        ("table9", "imagenet", "top1_lc_3", (65.41, None)),
        ("figure4", "cifar10", "1+2+3+main", (92.79, None)),
        ("figure3", "cifar10", "main", (None, None)),
    ],
)
def test_what_the_paper_prints(name: str, dataset: str, row: str, expected: tuple[float | None, float | None]) -> None:
    assert printed.accuracy(name, dataset, row) == expected


def test_the_work_of_a_mean_image() -> None:
    rows = ("threshold_0.90", "threshold_0.95", "main")
    assert [printed.mean_flop_millions(row) for row in rows] == [2.9, 3.05, 15.72]


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("table") and name != "table5"])
def test_every_row_of_a_table_is_printed_there_and_the_other_way_round(name: str) -> None:
    target = TARGETS[name]
    for dataset in target.datasets:
        assert set(printed.content()[name][dataset]) == {row.name for row in target.rows}
        assert all(printed.accuracy(name, dataset, row.name)[0] for row in target.rows)
