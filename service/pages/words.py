"""How the pages name what the report knows by code."""

from service.reports.schemas import Cause

CAUSES: dict[Cause, str] = {
    "rule": "A policy rule",
    "overruled_later": "A person overrode the router, and was overruled later",
    "chain": "A chain: several departments worked on it",
    "label_noise": "The labels disagree",
    "unfamiliar": "A new kind of ticket",
    "acted_unsure": "It was unsure, and acted on anyway",
    "sure_and_wrong": "Sure, and wrong",
}
COURSES = {
    "straight": "went straight to their team",
    "overruled": "were put right at once",
    "moved": "lay in one wrong team",
    "bounced": "bounced between teams",
}
COURSE = {
    "straight": "Went straight to its team",
    "overruled": "Put right at once",
    "moved": "Lay in one wrong team",
    "bounced": "Bounced between teams",
}
ACTIONS = {"auto": "routed", "suggest": "suggested to a person", "review": "left for review"}
FACETS = {
    "kind": "kind (in the end)", "department": "department (in the end)", "language": "language", "customer_tier": "customer tier",
    "country": "country", "channel": "channel", "model_version": "model version", "action": "action",
}  # fmt: skip
COMPARED = FACETS | {"kind": "decided kind", "department": "decided department"}
TIMED = {"kind": "kind", "department": "department", "customer_tier": "customer tier", "language": "language", "country": "country"}
FIGURES = {
    "misrouted.department": "Misrouted in department",
    "misrouted.kind": "Misrouted in kind",
    "incidents.recall": "Real incidents recognised",
    "review": "Left for review",
}
SIGNALS = {
    "language": "Tickets in",
    "kind": "Tickets decided",
    "department": "Tickets decided",
    "unfamiliar": "Unfamiliar words",
    "review": "Left for review",
    "overridden": "Overridden by a person",
    "confidence": "Mean confidence",
}
EVENTS = {
    "assigned": "Assigned to",
    "moved": "Moved to",
    "kind_corrected": "Kind corrected to",
    "answered": "First answer to the customer",
    "closed": "Closed",
}
DECIDED = {"auto": "Routed to", "suggest": "Suggested to a person:", "review": "Left for review, most likely"}
BY = {"person": "by a person", "rule": "by a rule", "router": "by the router"}
