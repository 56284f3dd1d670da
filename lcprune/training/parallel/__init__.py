"""Training in several processes: data parallel, layer parallel, and both."""
