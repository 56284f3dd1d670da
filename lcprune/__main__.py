"""``python -m lcprune``, which torchrun needs."""

from lcprune.cli import main

if __name__ == "__main__":
    main()
