"""Holding the files of a run against what was recorded when they were written."""

from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.errors import RunError

EXPORTED = {".onnx", ".ort", ".md", ".json", ".config"}


def verify(target: Path) -> dict[str, Any]:
    """The recorded files of a run, or one that it exported: a model, its card, a segment.

    Raises:
        RunError: If a file is missing or has changed, or nothing was recorded.
    """
    folder, only = _run_of(target)
    recorded = [name for name in runs.recorded_files(folder) if only in (None, name)]
    if not recorded:
        raise RunError(f"nothing is recorded about {target}", "verify a finished run, or a file that it exported")
    changed = [name for name in runs.changed_files(folder) if name in recorded]
    if changed:
        raise RunError(
            f"{folder}: {', '.join(changed)} is missing or is not what was written",
            "restore the file, or run the command that writes it again",
        )
    return {"run": str(folder), "files": recorded}


def _run_of(target: Path) -> tuple[Path, str | None]:
    if target.suffix not in EXPORTED:
        return runs.open_run(target)[0], None
    if not target.is_file():
        raise RunError(f"there is no file {target}", "name a run folder, or an .onnx file inside one")
    path = target.resolve()
    for folder in path.parents:
        if all((folder / name).is_file() for name in (runs.MANIFEST, runs.RECIPE)):  # segments have a manifest, too
            return folder, path.relative_to(folder).as_posix()
    raise RunError(
        f"{target} does not lie in a run folder, so nothing is recorded about it", "verify it where it was exported"
    )
