"""The commands' work: each stage reads what the one before wrote into the run folder."""
