"""One training of ours beside the plain way, on photographs with a pretrained phone network."""
