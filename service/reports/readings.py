"""The evidence for a ticket's likely cause, read out in a sentence or two: what was recorded, nothing that was not."""

from datetime import timedelta
from typing import Any, NamedTuple

from service.reports.causes import target_of
from service.reports.schemas import Cause


class Evidence(NamedTuple):
    """What was found besides the story: see `causes.Causes` of `agreeing` and `differing`, `repository.Reader` of `overruled_to`."""

    cause: Cause
    agreeing: int
    differing: int
    overruled_to: str | None


def read(row: Any, evidence: Evidence) -> str:
    """`row`: the stored story, with its columns' names."""
    cause, agreeing, differing, overruled_to = evidence
    target = target_of(row) or "department"
    decided, final = getattr(row, target), getattr(row, f"final_{target}")
    began = f"The router {_sure(row, target)} {decided}"
    ended = f"it ended in {final}" if target == "department" else f"it was {final} in the end"
    if cause == "rule":
        if target == "kind":
            return f"{began}; a rule changed the kind, and {ended}."
        first = row.placed_by == "rule" and row.placed_in not in (decided, final)
        return f"{began}; a rule put it in {row.placed_in}, and {ended}." if first else f"{began}; a rule put it in {final}{_lasting(row)}."
    if cause == "overruled_later":
        there = row.placed_in if overruled_to is None else overruled_to
        return f"{began}; a person put it in {there} instead, and {ended}{_lasting(row)}: neither of the two was right."
    if cause == "chain":
        return f"{began}; {row.answered_in} gave the first answer to the customer, and {ended}{_moves(row)}: several teams worked on it."
    if cause == "label_noise":
        twins = f"{_count(agreeing, 'other ticket')} with exactly this text ended as {decided}, {differing or 'no other'} as {final}"
        return f"{began}; {ended}. But {twins}."
    if cause == "unfamiliar":
        return f"{began}, and said itself that {_strange(row.reasons.split())}; {_then(row, target, final)}."
    if cause == "acted_unsure":
        followed = target == "department" and row.placed_in in (None, decided) and row.wrong_at is not None
        acted = f"it was put in {decided} all the same, and" if followed else "so a person saw it first, and"
        return f"{began}, which was not sure enough to act on ({row.action}); {acted} {_then(row, target, final)}."
    how = "routed it without a person" if row.action == "auto" else f"did not doubt it ({row.action})"
    return f"{began} and {how}; {_then(row, target, final)}."


def _sure(row: Any, target: str) -> str:
    confidence = getattr(row, f"{target}_confidence")
    # 99.96% is not 100%.
    return "decided" if confidence is None else f"was {min(int(confidence * 1000 + 0.5) / 10, 99.9):g}% sure of"


def _strange(reasons: list[str]) -> str:
    if "empty" in reasons:
        return "it found nothing to read"
    both = "unfamiliar" in reasons and "unknown_language" in reasons
    return (
        "it knew neither the language nor the words"
        if both
        else "it knew few of the words"
        if "unfamiliar" in reasons
        else "it had not learned the language"
    )


def _then(row: Any, target: str, final: str) -> str:
    who = {"person": "a person", "rule": "a rule", "router": "the router"}.get(getattr(row, f"{target}_by") or "", "somebody")
    if target == "kind":
        return f"{who} corrected that to {final}"
    return f"{who} moved it to {final}{_lasting(row)}{_moves(row)}" if row.wrong_at is not None else f"{who} put it in {final}"


def _lasting(row: Any) -> str:
    if row.wrong_at is None or row.right_at is None or row.right_at < row.wrong_at:
        return ""
    lay = row.right_at - row.wrong_at
    if lay < timedelta(hours=1):
        return f" {_count(round(lay / timedelta(minutes=1)), 'minute')} later"
    if lay < timedelta(days=3):
        return f" {lay / timedelta(hours=1):.1f} hours later"
    return f" {lay / timedelta(days=1):.1f} days later"


def _moves(row: Any) -> str:
    return f", after {row.moves} moves" if row.moves > 1 else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
