"""What came out of runs: tables and last words in the terminal, and one HTML page with its plots."""

from continual.report.files import write
from continual.report.page import page
from continual.report.tables import last_words, tables

__all__ = ["last_words", "page", "tables", "write"]
