"""What only reproduces the paper: its tables and figures. `lcprune reproduce` imports it, and nothing else does."""
