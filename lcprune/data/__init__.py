"""Images and labels: where they come from, and how batches reach the device."""
