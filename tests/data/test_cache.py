import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from lcprune.data import cache as module
from lcprune.data.cache import DiskCache, MemoryCache, cache_folder
from lcprune.errors import SetupError


def pixels(value: int) -> np.ndarray:
    return np.full((3, 4, 5), value, dtype=np.uint8)  # 60 bytes; 80 with the header of a file


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number))
    return [str(path) for path in paths]


def stored_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ("used_bytes", "lock")]


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in stored_files(folder))


def test_memory_is_bounded_and_shared_with_forked_processes() -> None:
    cache = MemoryCache(4, limit_bytes=130)  # two images of 60 bytes
    assert cache.get(0, "a") is None
    process = multiprocessing.get_context("fork").Process(target=cache.put, args=(2, "c", pixels(7)))
    process.start()
    process.join()
    np.testing.assert_array_equal(cache.get(2, "c"), pixels(7))
    cache.put(2, "c", pixels(7))  # again: takes no more room
    cache.put(0, "a", pixels(1))
    cache.put(1, "b", pixels(2))  # no room
    assert cache.get(1, "b") is None
    np.testing.assert_array_equal(cache.get(0, "a"), pixels(1))
    assert cache.used_bytes == 120


def test_a_disk_cache_outlives_its_process_and_notices_a_change(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "cache"
    DiskCache(folder, "s", 10_000).put(0, files[0], pixels(9))
    again = DiskCache(folder, "s", 10_000)
    np.testing.assert_array_equal(again.get(5, files[0]), pixels(9))  # the path counts, not the place
    assert DiskCache(folder, "other settings", 10_000).get(0, files[0]) is None
    os.utime(files[0], ns=(1, 1))
    assert again.get(0, files[0]) is None


def test_a_damaged_entry_is_not_used(tmp_path: Path, files: list[str]) -> None:
    cache = DiskCache(tmp_path / "cache", "s", 10_000)
    cache.put(0, files[0], pixels(9))
    (entry,) = stored_files(tmp_path / "cache")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert cache.get(0, files[0]) is None
    entry.write_bytes(content[:30])
    assert cache.get(0, files[0]) is None
    entry.write_bytes(b"")
    assert cache.get(0, files[0]) is None


def fill(folder: Path, files: list[str]) -> None:
    cache = DiskCache(folder, "s", 1000)
    for number, path in enumerate(files):
        cache.put(number, path, pixels(number))


def test_two_processes_keep_to_one_bound(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=fill, args=(folder, order)) for order in (files, files[::-1], files[10:])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert stored_bytes(folder) == 960  # twelve files of 80 bytes; a thirteenth would be over 1,000
    assert (folder / "used_bytes").read_text() == "960"
    cache = DiskCache(folder, "s", 1000)
    found = {number: cache.get(0, path) for number, path in enumerate(files)}
    kept = {number: image for number, image in found.items() if image is not None}
    assert len(kept) == 12
    for number, image in kept.items():
        assert image[0, 0, 0] in (number, 39 - number, number - 10)


def test_images_of_other_settings_make_room(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "cache"
    fill(folder, files)
    assert stored_bytes(folder) == 960
    DiskCache(folder, "s", 1000)  # its own images stay, although it is nearly full
    assert stored_bytes(folder) == 960
    other = DiskCache(folder, "other", 1000)
    assert stored_bytes(folder) == 0
    other.put(0, files[0], pixels(3))
    np.testing.assert_array_equal(other.get(0, files[0]), pixels(3))


def test_the_oldest_of_other_settings_goes_first(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "cache"
    for age_s, settings in ((50, "middle"), (90, "old"), (10, "young")):
        DiskCache(folder, settings, 10_000).put(0, files[0], pixels(3))
        (group,) = (each for each in folder.iterdir() if each.is_dir() and each.stat().st_mtime > 1000)
        os.utime(group, (1000 - age_s, 1000 - age_s))
    each_bytes = stored_bytes(folder) // 3
    DiskCache(folder, "new", round(2.5 * each_bytes))  # room for two of them
    assert stored_bytes(folder) == 2 * each_bytes
    kept = {group.stat().st_mtime for group in folder.iterdir() if group.is_dir() and any(group.rglob("*"))}
    assert kept == {950.0, 990.0}


def test_a_full_disk_ends_no_run(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path / "cache", "s", 10_000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    cache.put(0, files[0], pixels(1))
    assert cache.get(0, files[0]) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="the image cache .*file/cache cannot be written to"):
        DiskCache(tmp_path / "file" / "cache", "s", 1000)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCPRUNE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LCPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/lcprune/images")
