"""The thresholds of commit 78d38dd, for `benchmarks.budget`: run by it with the path of a checkout of that commit."""

import json
import sys

import numpy as np


def main(checkout: str, arrays: str, criterion: str, budgets: str) -> None:
    """Prints, for every split, exits and thresholds by budget and confidence, as JSON."""
    sys.path.insert(0, checkout)
    from lcprune.analysis.evaluate import CascadeCost
    from lcprune.analysis.thresholds import calibrate

    given = np.load(arrays, allow_pickle=False)
    cost = CascadeCost(tuple(given["groups"].tolist()), tuple(given["critics"].tolist()))
    found = []
    for images in given["splits"]:
        logits, labels = given["logits"][:, images], given["labels"][images]
        chosen = {}
        for confidence in (None, 0.95):
            for budget in json.loads(budgets):
                kept = calibrate(logits, labels, cost, budget, confidence=confidence, criterion=criterion)
                chosen[json.dumps([budget, confidence])] = [kept.exits, kept.thresholds]
        found.append(chosen)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
