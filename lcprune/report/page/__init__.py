"""One self-contained HTML page about a run."""

from lcprune.report.page.document import page

__all__ = ["page"]
