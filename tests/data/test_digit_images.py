import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lcprune.data.sources import read_digits

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digit_images.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLE, *arguments], capture_output=True, text=True)


def test_images_are_spread_over_the_classes_and_are_the_test_digits(tmp_path: Path) -> None:
    done = run(tmp_path / "digits", "--count", "13")
    assert done.returncode == 0, done.stderr
    written = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(written) == sorted((tmp_path / "digits").iterdir())
    assert [path.name[0] for path in written] == list("0123456789012")
    _, test = read_digits()
    for path in written:
        label, index = map(int, path.stem.split("_"))
        assert label == test.labels[index]
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), test.images[index, 0])


def test_a_count_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "--count", "361")
    assert done.returncode == 2
    assert "--count must be in 1 to 360" in done.stderr
