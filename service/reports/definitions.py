"""What each figure means, in words that stand beside it."""

DEFINITIONS = {
    "tickets": "All tickets that were created in the period and decided by the router, whatever became of them.",
    "judged": "Tickets that are closed, so that it is known where they belonged. All figures but tickets and moves count only these.",
    "moves": "How often tickets were moved from one department to another, over all tickets.",
    "misrouted": "Judged tickets that ended in another department (or as another kind) than the router had decided, whoever changed that.",
    "incidents": "Real incidents: judged tickets whose kind was incident in the end. Recognised: those that the router called incidents at intake.",
    "held_back": "Incidents that the router did not recognise, but that it marked as possible incidents or left to a person.",
    "filed_as_incident": "Judged tickets that the customer declared to be incidents; advisory: those that were requests for advice in the "
    "end; caught: those of them that the router called advice at intake.",
    "courses": "Straight: it never lay in a wrong department. Overruled: somebody corrected the router before any team began to work "
    "on it. Moved: it lay in one wrong department. Bounced: in several, or in one again and again.",
    "moves_of_tickets": "Judged tickets by how often they were moved.",
    "to_right_team": "Minutes from a ticket's creation until the department that it ended in had it for good.",
    "to_answer": "Minutes from a ticket's creation until the first answer to the customer.",
    "misplaced": "Minutes from the first wrong assignment until the right department had the ticket for good; of tickets that lay in a wrong one.",
    "matrix": "Judged tickets: what the router decided in the rows, what it was in the end in the columns.",
    "pairs": "Tickets that the router decided for one department and that ended in another; hours: how long they lay in wrong departments, "
    "together; the most costly first.",
    "confidence": "What the router promised against what came: of the tickets with such a confidence, how many were right. A promise is kept "
    "where it lies within, or under, the interval of what was observed.",
    "auto": "Of the tickets that were routed without a person, how many were right, against the precision that the serving model promised.",
    "interval": "Where the true share lies with 95% probability; the fewer tickets, the wider.",
    "by": "The same figures for each language, week, model version, department, kind, channel, tier, country and action. Departments and "
    "kinds are those in the end; at most 100 values of each, the rarer ones together.",
    "versions": "Which model versions decided these tickets, and the days of the first and the last of them.",
    "compared": "What got worse since the period of the same length just before, by so much that chance does not explain it, although many "
    "things were looked at. By department and kind: those that the router decided.",
    "causes": "For each misrouted ticket the first of these causes that there is evidence for; a wrong department is looked at before a wrong kind. "
    "The same text is looked for among the judged tickets of the period.",
    "drift": "What came in, by calendar week, the first and the last of them whole where they reach out of the period; changes: weeks that differ "
    "from the four weeks before beyond chance, and by at least a percentage point. Overridden: judged tickets whose label a person changed.",
    "week": "Calendar weeks by ISO 8601, from Monday, in UTC.",
    "hours_misplaced": "Hours from the first wrong assignment until the right department had the ticket for good.",
    "words": "The words that pulled the router's decision most, as long as the ticket's text is kept.",
}  # fmt: skip
