"""Files of ImageNet's layout and size, and what a process and its workers take."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import imagenet
from lcprune.data.files import list_folder


@pytest.fixture(autouse=True)
def _few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "CLASSES", 3)


def test_a_file_is_as_large_as_those_of_imagenet() -> None:
    stream = io.BytesIO()
    image = imagenet.photograph(np.random.default_rng(0))
    image.save(stream, "jpeg", quality=imagenet.QUALITY)
    assert image.size == (500, 375)
    assert 0.9 < len(stream.getvalue()) / imagenet.FILE_BYTES < 1.1


def test_the_layout_is_imagenets_and_links_take_no_room(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    mean_bytes = imagenet.make_files(few, 2)
    assert 0.9 < mean_bytes / imagenet.FILE_BYTES < 1.1
    assert imagenet.make_files(few, 2) == mean_bytes  # nothing is made twice
    for _ in range(2):
        imagenet.link_files(few, many, 5)
    listing = list_folder(many, val_is_test=True)
    assert all(re.fullmatch(r"n\d{8}", name) for name in listing.classes)
    train, test = listing.splits["train"], listing.splits["test"]
    assert (len(listing.classes), len(train), len(test), len(listing.splits)) == (3, 15, 3, 2)
    inodes = {os.stat(path).st_ino for path in (*train, *test)}
    assert len(inodes) == 3 * 2 + 3


def test_memory_is_that_of_a_process_and_of_those_that_it_started() -> None:
    hold = "b = bytearray(b'x') * 60_000_000; print('ready', flush=True); input()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with imagenet.watched(child.pid) as seen:
            pass
        child.communicate(b"\n")
    assert 60_000_000 < max(seen) < 110_000_000  # and two Pythons of some 10 MB
