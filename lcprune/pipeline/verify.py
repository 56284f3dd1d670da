"""Holding the files of a run against what was recorded when they were written, and against what they were made from."""

from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.errors import RunError
from lcprune.training.checksum import is_intact

EXPORTED = {".onnx", ".ort", ".md", ".json", ".config"}


def verify(target: Path) -> dict[str, Any]:
    """The recorded files and the checkpoints of a run, or one file that it exported: a model, its card, a segment.

    Raises:
        RunError: If a file is missing or has changed, was made from what is there no longer, or nothing was recorded.
    """
    folder, only = _run_of(target)
    recorded = [name for name in runs.recorded_files(folder) if only in (None, name)]
    checkpoints = folder / runs.CHECKPOINTS
    saved = sorted(f"{runs.CHECKPOINTS}/{path.name}" for path in checkpoints.glob("*.pt")) if only is None else []
    is_finished = (folder / runs.WEIGHTS).exists()
    if not recorded and (is_finished or not saved):
        raise RunError(f"nothing is recorded about {target}", "verify a finished run, or a file that it exported")
    changed = [name for name in runs.changed_files(folder) if name in recorded]
    changed += [name for name in saved if not is_intact(folder / name)]
    if changed:
        raise RunError(
            f"{folder}: {', '.join(changed)} is missing or is not what was written",
            f"restore the file, or run the command that writes it again ({_command(folder, changed[0])})",
        )
    if only is None:
        _refuse_what_does_not_belong_together(folder, recorded)
    return {"run": str(folder), "files": sorted([*recorded, *saved])}


def _refuse_what_does_not_belong_together(folder: Path, names: list[str]) -> None:
    stale = {name: sources for name in names if (sources := runs.changed_sources(folder, name))}
    if not stale:
        return
    first, sources = next(iter(stale.items()))
    raise RunError(
        f"{folder}: {', '.join(stale)} does not belong to the {' and '.join(sources)} that is there now",
        f"make it again: {_command(folder, first)}",
    )


def _command(folder: Path, name: str) -> str:
    """What writes a file of a run."""
    commands = {runs.PROFILE: "profile", runs.SELECTION: "select", runs.REPORT: "report"}
    if name.startswith(f"{runs.EXPORT}/") or name == runs.THRESHOLDS:
        return f"lcprune export {folder}"
    return f"lcprune {commands.get(name, 'resume')} {folder}"


def _run_of(target: Path) -> tuple[Path, str | None]:
    if target.suffix not in EXPORTED:
        return runs.open_run(target)[0], None
    if not target.is_file():
        raise RunError(f"there is no file {target}", "name a run folder, or an .onnx file inside one")
    if found := runs.run_of(target):
        return found
    raise RunError(
        f"{target} does not lie in a run folder, so nothing is recorded about it", "verify it where it was exported"
    )
