import sys
from pathlib import Path

import pytest

from lcprune.data.manifest import read_manifest
from lcprune.errors import DataError, SetupError


def table(folder: Path, text: str, name: str = "all.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_splits(tmp_path: Path) -> None:
    text = "\ufeffsplit,path,label\ntrain,a.png,dog\nval,deep/b.png,cat\n,c.png,cat\ntest,/d.png,dog\n"
    listing = read_manifest(table(tmp_path, text.replace("\n,c", "\ntrain,c")))
    assert listing.classes == ("cat", "dog")
    assert {split: [*files] for split, files in listing.splits.items()} == {
        "train": [f"{tmp_path}/a.png", f"{tmp_path}/c.png"],
        "val": [f"{tmp_path}/deep/b.png"],
        "test": ["/d.png"],
    }
    assert listing.splits["train"].labels.tolist() == [1, 0]


def test_without_splits_all_are_for_training_and_numbers_are_in_order(tmp_path: Path) -> None:
    listing = read_manifest(table(tmp_path, 'path,label\n"a, b.png",10\nc.png,9\n'))
    assert listing.classes == ("9", "10")
    assert listing.splits.keys() == {"train"}
    assert (*listing.splits["train"],) == (f"{tmp_path}/a, b.png", f"{tmp_path}/c.png")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no column path"),
        ("path,class\na.png,1\n", "has no column label .it has path, class"),
        ("path,label\na.png,x\nb.png,\x1b[31mred\n", r"class '.x1b\[31mred' of .* cannot be printed"),
        ("path,label\na.png,\n", "row 1 of .* has path 'a.png', label ''"),
        ("path,label,split\na.png,x,train\nb.png,y,dev\n", "row 2 of .* split 'dev'"),
        ("path,label\na.png,x\n", "has 1 classes"),
        ("path,label\na,01\nb,2\nc,1\n", "classes '01' and '1' of .* differ in nothing but"),
        ("path,label\na,caf\u00e9\nb,cafe\u0301\n", "differ in nothing but"),
        ("path,label,split\na,x,train\nb,y,train\nc,X,val\n", "'X' and 'x' differ in nothing but"),
        (
            "path,label,split\na,x,train\nb,y,train\n./a,x,val\n",
            r"row 3 of .* has .*a for val, and row 1 has it for train",
        ),
        ("path,label\na,x\nb,y\na,y\n", r"row 3 of .* has .*a as y, and row 1 has it as x"),
        ("path,label,split\na,x,train\nb,y,train\nc,z,test\n", "z is no class of the training images"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_manifest(table(tmp_path, text))


def test_one_file_may_be_there_twice_in_a_split(tmp_path: Path) -> None:
    splits = read_manifest(table(tmp_path, "path,label,split\na,x,train\na,x,train\nb,y,train\nc,y,val\n")).splits
    assert {name: len(files) for name, files in splits.items()} == {"train": 3, "val": 1}


def test_a_missing_or_foreign_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_manifest(tmp_path / "x.csv")


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"path": ["a.png", "b.png", "c.png"], "label": [3, 20, 3], "split": ["train", None, "test"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "all.parquet")
    listing = read_manifest(tmp_path / "all.parquet")
    assert listing.classes == ("3", "20")
    assert (*listing.splits["train"],) == (f"{tmp_path}/a.png", f"{tmp_path}/b.png")
    assert listing.splits["test"].labels.tolist() == [0]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_manifest(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SetupError, match=r"needs pyarrow") as caught:
        read_manifest(table(tmp_path, "", "all.parquet"))
    assert "pip install pyarrow" in caught.value.fix
