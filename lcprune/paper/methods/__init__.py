"""Training methods that only the paper's tables need; a recipe's `train.method` loads them by module name."""
