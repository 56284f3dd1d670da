"""Costs, accuracies, thresholds and the choice among sub-models: numpy in, numbers out."""
