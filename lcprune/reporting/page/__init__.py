"""One self-contained HTML page about a run."""

from lcprune.reporting.page.document import page

__all__ = ["page"]
