"""Cells of CSV files that people open in a spreadsheet: what customers wrote must not become a formula there."""

# OWASP, "CSV Injection"; the wide signs count in some languages' settings. The apostrophe is among them so that it can be taken off again.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def safe(cell: str) -> str:
    """The cell, behind an apostrophe where a spreadsheet might take it for a formula.

    >>> safe("=1+1"), safe("1+1=2")
    ("'=1+1", '1+1=2')
    """
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def plain(cell: str) -> str:
    """What was made `safe`."""
    return cell.removeprefix("'")
