"""The main job on real data: train, select, export on CIFAR-10, with other training methods at equal time beside it.

    python -m benchmarks.cifar10_small --data-root data --out /tmp/cifar10_small

Runs that are there already are resumed or read. The methods are compared at equal time: the steps of each are those of
`backprop` divided by the cost of its step, as measured in turn in this process before anything is trained.
"""

import argparse

from benchmarks.commands import lcprune, once, train
from benchmarks.provenance import RESULTS, Row, command_line, provenance, read, save
from benchmarks.throughput import step_costs

RECIPE = "vgg_cifar10_small"
SEED = 0  # of the recipe
RESULT = RESULTS / "cifar10_small_cpu.json"
METHODS = {
    "backprop": ["train.method=backprop"],
    "deep_supervision": ["train.method=deep_supervision"],
    "local_critic, cross_entropy": ["train.method=local_critic", "critics.loss=cross_entropy"],
    "local_critic, mix": ["train.method=local_critic", "critics.loss=mix"],
    "local_critic, cascade": ["train.method=local_critic", "critics.loss=cascade"],
}


def main() -> None:
    """Runs what is missing and writes the result file."""
    parser = command_line("benchmarks.cifar10_small", __doc__, trains=True)
    parser.add_argument("--compare-iterations", type=int, default=3500, help="of backprop in the comparison")
    parser.add_argument("--only", choices=["recipe", "methods"], help="run this part and keep the other's figures")
    args = parser.parse_args()
    result = read(RESULT)
    if args.only != "methods":
        result["recipe"] = {**provenance("benchmarks.cifar10_small", SEED), **recipe_run(args)}
    if args.only != "recipe":
        result["methods_at_equal_time"] = {**provenance("benchmarks.cifar10_small", SEED), "rows": compare(args)}
    save(RESULT, result, {str(args.out): "FOLDER"})


def recipe_run(args: argparse.Namespace) -> Row:
    """The recipe as it ships, through the three commands."""
    run = args.out / "recipe"
    trained = train(RECIPE, run, args.data_root)
    export = ["export", str(run), "--format", "onnx"]
    return {
        "train": trained,
        "profile": lcprune("profile", str(run)),
        "select": lcprune("select", str(run), "--max-drop", "2.0"),
        "export_submodel": lcprune(*export),
        "export_progressive": lcprune(*export, "--progressive", "--max-drop", "0.6"),
        "export_progressive_2_points": lcprune(
            *export, "--progressive", "--max-drop", "2.0", "--output", str(run / "export/progressive_2.onnx")
        ),
        "evaluate": lcprune("evaluate", str(run)),
    }


def compare(args: argparse.Namespace) -> Row:
    """Every method for the time that backprop's steps take."""
    costs = once(args.out / "step_costs.json", lambda: step_costs(RECIPE, METHODS, repeats=15))
    rows = {}
    for name, overrides in METHODS.items():
        iterations = round(args.compare_iterations * costs["backprop"] / costs[name])
        run = args.out / name.replace(", ", "_")
        trained = train(RECIPE, run, args.data_root, [*overrides, f"train.iterations={iterations}"])
        rows[name] = {"iterations": iterations, "step_cost_to_backprop": costs[name] / costs["backprop"], **trained}
        print(name, [f"{accuracy:.2f}" for accuracy in trained["test_accuracy_pct"]], flush=True)
    return rows


if __name__ == "__main__":
    main()
