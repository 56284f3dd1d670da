"""Every table and figure of the paper, rehearsed at tiny scale with runs that they share."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcprune import runs
from lcprune.errors import DataError, RecipeError, RunError
from lcprune.paper import printed
from lcprune.paper.reproduce import Request, reproduce
from lcprune.paper.targets import TARGETS

pytestmark = pytest.mark.xdist_group("reproduce")


class Quiet:
    def stepped(self, *_: Any) -> None: ...

    def evaluated(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all tests of this module put their runs, so that each is trained once."""
    folder = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder / "out"


def run(name: str, out: Path, **options: Any) -> dict[str, Any]:
    return reproduce(
        Request(**{"name": name, "scale": "tiny", "out": out, "device": "cpu"} | options),
        display=lambda *_: nullcontext(Quiet()),
        notice=lambda _: None,
    )


def stored_accuracy(folder: Path, exit_index: int = -1) -> float:
    with np.load(folder / runs.PREDICTIONS) as arrays:
        return 100 * float((arrays["test_logits"][exit_index].argmax(axis=1) == arrays["test_labels"]).mean())


def test_table1(out: Path) -> None:
    result = run("table1", out)
    assert [row["name"] for row in result["rows"]] == ["bp", "dni_3", "critic_3", "lc_1", "lc_3", "lc_5"]
    for row in result["rows"]:
        assert row["mean"] == pytest.approx(stored_accuracy(out / "digits" / row["name"] / "seed-0"))
        assert (row["dataset"], row["std"], row["seeds"]) == ("cifar10", None, 1)
    assert (result["rows"][4]["paper_mean"], result["rows"][4]["paper_std"]) == (92.39, 0.09)
    assert [test["rows"] for test in result["tests"]] == [
        ["lc_3", "critic_3"],
        ["lc_1", "bp"],
        ["lc_3", "bp"],
        ["lc_5", "bp"],
    ]
    assert all(test["p"] is None and "cannot be significant" in test["reason"] for test in result["tests"])
    assert "Nothing here says which method is better" in result["note"]
    assert {"key": "train.iterations", "paper": 80_000, "here": 20} in result["differs"]
    assert {"key": "seeds", "paper": 5, "here": 1} in result["differs"]
    source = result["provenance"]
    assert (source["seeds"], source["runs"]) == ([0], 6)
    assert source["seconds_trained"] > 0
    assert source["machine"]["cpu"]
    assert source["versions"]["torch"]
    assert len(source["trained_on"]) == 1
    assert json.loads((out / "table1.json").read_text()) == result
    assert "| CIFAR-10 | lc_3 |" in (out / "table1.md").read_text()


def test_seeds_are_averaged(out: Path) -> None:
    rows = {row["name"]: row for row in run("table4", out, seeds=2)["rows"]}
    for name, folder, exit_index in (("bp_sub_2", "bp_sub_2", -1), ("lc_sub_2", "lc_3", 1)):
        by_hand = [stored_accuracy(out / "digits" / folder / f"seed-{seed}", exit_index) for seed in (0, 1)]
        assert rows[name]["values"] == pytest.approx(by_hand)
        assert rows[name]["mean"] == pytest.approx(sum(by_hand) / 2)
        assert rows[name]["std"] == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2**0.5)
        assert rows[name]["seeds"] == 2
    assert (rows["lc_sub_1"]["paper_mean"], rows["bp_sub_1"]["paper_std"]) == (85.24, 0.91)


def test_table5_is_exact_at_any_scale_and_trains_nothing(out: Path, tmp_path: Path) -> None:
    result = run("table5", tmp_path / "empty")
    shown = {row["name"]: tuple(round(row[key] / 1e6, 2) for key in ("params", "paper_flop")) for row in result["rows"]}
    assert shown == printed.costs()
    assert [round(row["macs"] / 1e6, 1) for row in result["rows"]] == [116.3, 172.0, 247.2, 322.7]
    assert "uses each of its weights at every pixel" in result["note"]
    assert result["differs"] == []
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {".results.lock", "table5.json", "table5.md"}


def test_a_run_of_another_recipe_is_named(out: Path) -> None:
    run("figure3", out)
    with pytest.raises(RunError, match="lc_3/seed-0 holds a run of another recipe"):
        run("figure3", out, overrides=("train.lr=0.2",))


def test_an_override_reaches_every_run_and_is_listed(tmp_path: Path, out: Path) -> None:
    result = run("figure3", tmp_path / "other", overrides=("train.lr=0.2", "train.iterations=4"))
    assert {"key": "train.lr", "paper": 0.1, "here": 0.2} in result["differs"]
    assert {"key": "train.iterations", "paper": 80_000, "here": 4} in result["differs"]
    with pytest.raises(RecipeError, match="unknown key train.lrr"):
        run("figure3", tmp_path / "other", overrides=("train.lrr=0.2",))


def test_figure6_of_a_run_without_the_record_says_what_to_do(out: Path) -> None:
    run("figure3", out)
    record = out / "digits/lc_3/seed-0" / runs.SAMPLE_LOSSES
    hidden = record.rename(record.with_suffix(".hidden"))
    with pytest.raises(RunError, match="trained without logging.sample_losses") as caught:
        run("figure6", out)
    assert caught.value.fix.startswith("remove that folder")
    hidden.rename(record)


def test_what_the_paper_does_not_have(out: Path) -> None:
    with pytest.raises(RecipeError, match="the paper has no table6 of cifar100"):
        run("table6", out, datasets=("cifar100",))
    with pytest.raises(ValueError, match="there is no table10 at scale tiny"):
        run("table10", out)


def test_table9_at_the_papers_scale_reads_imagenet(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("n01", "n02"):
            (tmp_path / "imagenet" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "imagenet" / split / name / f"{index}.png")
    small = ("model.width=0.03125", "data.image_size=32", "data.resize=40", "data.batch_size=4", "data.workers=0")
    small += ("critics.channels=4", "critics.pool_to=1", "train.iterations=1", "train.precision=fp32")
    asked = {"scale": "paper", "seeds": 1, "overrides": small}
    with pytest.raises(DataError, match="there is no folder .*absent"):
        run("table9", tmp_path / "out", data_root=tmp_path / "absent", **asked)
    result = run("table9", tmp_path / "out", data_root=tmp_path / "imagenet", **asked)
    assert [(row["name"], row["mean"], row["paper_mean"]) for row in result["rows"][:2]] == [
        ("top5_bp", 100.0, 92.38),  # of two classes, the right one is always among five
        ("top5_lc_3", 100.0, 86.52),
    ]
    facts = json.loads((tmp_path / "out/imagenet/resnet50_lc_3/seed-0" / runs.DATASET).read_text())
    assert facts["classes"] == ["n01", "n02"]
    assert {"key": "train.iterations", "paper": "not said", "here": 1} in result["differs"]
    assert {"key": "model.width", "paper": 1.0, "here": 0.03125} in result["differs"]
    assert not any(entry["key"].startswith("data.source") for entry in result["differs"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_table_and_figure(name: str, out: Path) -> None:
    result = run(name, out)
    target = TARGETS[name]
    assert [row["name"] for row in result["rows"]] == [row.name for row in target.rows]
    assert all((Path(file).is_file() and Path(file).stat().st_size) for file in result["files"])
    assert (out / f"{name}.md").read_text().startswith(f"# {name[:-1].capitalize()} {name[-1]}: {target.title}")
    assert len(result["figures"]) == {"t": 0, "f": 2 if name == "figure6" else 1}[name[0]]
    assert all((out / figure).read_bytes().startswith(b"\x89PNG") for figure in result["figures"])
    if name != "table5":
        assert all(np.isfinite(row["mean"]) and row["seeds"] == 1 for row in result["rows"])
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_table6_is_the_run_of_table1(out: Path) -> None:
    rows = {row["name"]: row for row in run("table6", out)["rows"]}
    lc_3 = {row["name"]: row for row in run("table1", out)["rows"]}["lc_3"]
    assert rows["main"]["mean"] == lc_3["mean"]
    assert rows["main"]["macs_ratio"] == 1
    assert rows["threshold_0.90"]["runs"] == lc_3["runs"]
    assert sum(rows["threshold_0.90"]["exit_fractions"]) == pytest.approx(1)
    assert (rows["threshold_0.95"]["paper_mean"], rows["threshold_0.95"]["paper_flop_millions"]) == (91.75, 3.05)
