"""The run folder: the names in it, atomic writes, checksums, the lock, and the newest run."""

from lcprune.runs.checksums import changed_files as changed_files
from lcprune.runs.checksums import changed_sources as changed_sources
from lcprune.runs.checksums import check_exported as check_exported
from lcprune.runs.checksums import record as record
from lcprune.runs.checksums import recorded_files as recorded_files
from lcprune.runs.checksums import remove as remove
from lcprune.runs.checksums import require as require
from lcprune.runs.checksums import run_of as run_of
from lcprune.runs.files import atomic_write as atomic_write
from lcprune.runs.files import read_json as read_json
from lcprune.runs.files import sha256 as sha256
from lcprune.runs.files import write_json as write_json
from lcprune.runs.files import write_text as write_text
from lcprune.runs.folder import create as create
from lcprune.runs.folder import lock as lock
from lcprune.runs.folder import open_run as open_run
from lcprune.runs.layout import *  # noqa: F403 - all names in a run folder
from lcprune.runs.predictions import read_predictions as read_predictions
from lcprune.runs.predictions import write_predictions as write_predictions
