"""Cells of CSV files that people open in a spreadsheet: what customers wrote must not become a formula there."""

# OWASP, "CSV Injection"; the wide signs count in some languages' settings.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe(cell: str) -> str:
    """The cell, behind an apostrophe where a spreadsheet might take it for a formula.

    >>> safe("=1+1"), safe("1+1=2")
    ("'=1+1", '1+1=2')
    """
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
