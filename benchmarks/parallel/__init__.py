"""What several processes gain, need and send: `python -m benchmarks.parallel`."""
