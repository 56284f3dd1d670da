"""Several processes for one test."""

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STARTER = """
import importlib.util, pickle, sys, warnings
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
warnings.simplefilter("error")
deprecations = []
for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
    warnings.simplefilter("default", category)
warnings.showwarning = lambda message, *where: deprecations.append((str(message), *where[:3]))
file, name, rank, size, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("work", file)
work = importlib.util.module_from_spec(spec)
spec.loader.exec_module(work)
store = dist.FileStore(str(folder / "store"), size)
dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=5))
result = getattr(work, name)()
(folder / f"{rank}.pickle").write_bytes(pickle.dumps((result, deprecations)))
dist.barrier()
dist.destroy_process_group()
"""

Ranks = Callable[[Callable[[], Any], int], list[Any]]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """``ranks(work, 2)``: what ``work()``, a function of a test module, gives in each of two processes of a group."""

    def start(work: Callable[[], Any], size: int) -> list[Any]:
        folder: Path = tmp_path_factory.mktemp(work.__name__)
        file = sys.modules[work.__module__].__file__ or ""
        started = [
            subprocess.Popen(
                [sys.executable, "-c", STARTER, file, work.__name__, str(rank), str(size), str(folder)],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            )
            for rank in range(size)
        ]
        try:
            errors = [process.communicate(timeout=600)[1] for process in started]
        finally:
            for process in started:
                process.kill()  # nothing where it has ended
        assert [process.returncode for process in started] == [0] * size, "\n".join(errors)
        ended = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]
        for _, deprecations in ended:
            for deprecation in deprecations:
                warnings.warn_explicit(*deprecation)  # for pytest, which lists them at the end of the run
        return [result for result, _ in ended]

    return start
