"""The tables of docs/scaling.md, exactly, and the commands of the page."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

from benchmarks import markdown
from lcprune.cli import app

PAGE = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
SPREAD = {"median": 1.714, "low": 1.7, "high": 1.75}


def measured() -> dict[str, object]:
    speed = {
        "case": "n",
        "batch_size": 128,
        "groups_per_rank": [1, 3],
        "pipeline_groups_per_rank": {"the same cut": [1, 3], "its own cut": [2, 2]},
        "rows": [
            {"side": "layers", "over": "one process", "speedup": SPREAD, "images_per_s": 1234.5},
            {"side": "GPipe, its own cut", "over": "backprop", "speedup": SPREAD, "images_per_s": 99.6},
        ],
    }
    slow = {"staleness": 1, "delay_ms": 20.0, "kept": SPREAD, "step_ms": 50.2, "delayed_step_ms": 60.7}
    memory = {
        "case": "n",
        "batch_size": 128,
        "backprop_bytes": 100_000_000,
        "peak_bytes": [59_000_000, 20_000_000],
        "largest_over_backprop": 0.59,
        "sent_bytes": [2_097_160, 520],
        "bytes_sent_per_step": [2_097_160, 520],
    }
    return {
        "machine": {"cpu": "Some CPU"},
        "speed": {"rows": [speed]},
        "slow links": {"rows": [{"case": "n", "batch_size": 32, "rows": [slow]}]},
        "memory": {"rows": [memory]},
    }


def model() -> dict[str, object]:
    row = {"machine": "m", "gpus": 8, "images_per_s": 12_345.6, "efficiency_pct": 97.6}
    return {
        "link": {"latency_s": 1e-4, "bytes_per_s": 2e9},
        "check": [
            {"case": "n", "batch_size": 128, "what": "layers", "model": 1.8, "measured": 1.7, "off_pct": 5.88},
        ],
        "batch": 4096,
        "rows": [{**row, "stages": 1, "replicas": 8}, {**row, "stages": 4, "replicas": 2, "efficiency_pct": 60.0}],
    }


def test_the_tables() -> None:
    lines = [line for line in markdown.scaling(measured(), model()).splitlines() if line.startswith("|")]
    assert [line for line in lines if not line.startswith(("| network", "| links", "| ---"))] == [
        "| n | layers, 1+3 | `local_critic` | 1.71 (1.70 to 1.75) | 1,234 |",
        "| n | GPipe, 2+2 | `backprop` | 1.71 (1.70 to 1.75) | 100 |",
        "| n | 32 | 1 | 50 ms | 61 ms | 1.71 (1.70 to 1.75) |",
        "| n | 100 MB | 0.59, 0.20 | 0.590 | 2,097,160, 520 | yes |",
        "| n, batch 128 | layers | 1.80 | 1.70 | +6 % |",
        "| m | 8 | 12,346 (98 %) | 4 x 2 | 12,346 (60 %) |",
    ]


def commands() -> list[list[str]]:
    """The words of every torchrun command; where a script chooses what to do, one of each."""
    text = PAGE.replace("\\\n", " ")
    works = re.findall(r'WORK="([^"]+)"', text)
    found = []
    for line in re.findall(r"torchrun (.*-m lcprune (?:train|resume|\$WORK).*)", text):
        for work in works if "$WORK" in line else [""]:
            said = line.replace("$WORK", work).replace("$SLURM_NNODES", "4").replace("$RUN", "runs/x")
            found.append(shlex.split(said))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_torchrun_and_lcprune_understand_the_commands(words: list[str]) -> None:
    launch = get_args_parser().parse_args(words)
    assert (launch.module, launch.training_script) == (True, "lcprune")
    name, *arguments = launch.training_script_args
    context = typer.main.get_command(app).commands[name].make_context(name, arguments)
    assert context.params["timeout"] in (None, 300.0)


def test_there_are_commands_for_one_machine_two_a_cluster_and_kubernetes() -> None:
    assert len(commands()) >= 9
    for sign in ("--standalone", "--nnodes 2", "#SBATCH", "completionMode: Indexed", "--max-restarts"):
        assert sign in PAGE


def test_the_manifest_starts_as_many_pods_as_torchrun_waits_for() -> None:
    (manifest,) = re.findall(r"```yml\n(.*?)```", PAGE, re.DOTALL)
    service, job = YAML(typ="safe").load_all(manifest)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (script,) = pod["containers"][0]["args"]
    assert spec["completions"] == spec["parallelism"] == int(re.findall(r"--nnodes (\d+)", script)[0])
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:" in script
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }
