"""The paper's tables and figures: which runs they need, what is read of each, and what the paper printed.

Nothing here trains or writes: `lcprune.pipeline.reproduce` does.
"""
