"""What is to be known of a history before it is learned from: findings, each with how many, why it matters and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from model.language import UNKNOWN, detect, normalise
from training import ambiguity, audit_table, languages, noise
from training.audit_table import Cell, Finding, excerpt
from training.errors import TrainingError
from training.evaluate import Progress
from training.history import History
from training.noise import OutOfFold, Suspect
from training.worksheet import Question

MOST_ROWS = 25  # of a finding that are told; the worksheet has all suspects
READ_ALOUD = 200  # tickets whose language is told by the text, to judge the tags by
SURE = 0.9


@dataclass(frozen=True)
class Audit:
    """`findings` in the order in which they are to be read; `suspects`: all of them, as the worksheet wants them."""

    sources: list[str]
    rows: int
    tickets: int
    seed: int
    findings: list[Finding]
    suspects: list[Suspect] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Figures and findings, without the suspects that no finding shows."""
        facts = {"sources": self.sources, "rows": self.rows, "tickets": self.tickets, "seed": self.seed}
        return facts | {"findings": [asdict(finding) for finding in self.findings]}


def audit(history: History, seed: int = 0, progress: Progress = lambda stage, done, of: None) -> Audit:
    """Look at a history from all sides. What cannot be looked at is a finding too: it says what is missing."""
    table = history.table
    progress("counting", 0, 1)
    findings = [audit_table.schema(history), audit_table.over_time(history), audit_table.lengths(history)]
    findings += [audit_table.labels(history, name) for name in table.labels]
    findings += audit_table.filed_as_incident(history)
    suspects: list[Suspect] = []
    try:
        judged = noise.out_of_fold(table, seed, progress)
    except TrainingError as error:
        findings.append(_not_looked("suspects", "Suspected label errors", error))
        return _finished(history, seed, findings, suspects)
    progress("telling the languages", 0, 1)
    spoken = languages.fill(table.texts, table.languages, judged.counts, seed)
    findings.insert(2, _languages(history, spoken, seed))
    findings += _near_duplicates(history, judged)
    try:
        progress("looking for wrong labels", 0, 1)
        suspects = noise.suspects(judged)
        findings += [_suspects(history, judged, suspects, target.name) for target in judged.targets]
        findings += _by_annotator(history, suspects)
    except TrainingError as error:
        findings.append(_not_looked("suspects", "Suspected label errors", error))
    progress("looking for labels that are one, or two", 0, 1)
    for target in judged.targets:
        if len(target.labels) > 2:
            findings.append(_confused(target))
            findings.append(_halves(history, spoken, target.name, seed))
    return _finished(history, seed, findings, suspects)


def questions(history: History, suspects: Sequence[Suspect]) -> list[Question]:
    """The suspects as the rows of a worksheet."""
    table, found = history.table, []
    for s in suspects:
        place = history.places[s.ticket]
        found.append(
            Question(place.source, place.row, table.ids[s.ticket], s.target, table.texts[s.ticket], s.given, s.suggested, s.score, "; ".join(s.words))
        )
    return found


def _finished(history: History, seed: int, findings: list[Finding], suspects: list[Suspect]) -> Audit:
    sources = list(dict.fromkeys(place.source for place in history.places))
    order = {"problem": 0, "look": 1, "fine": 2}
    return Audit(sources, history.rows, len(history.table), seed, sorted(findings, key=lambda finding: order[finding.level]), suspects)


def _not_looked(code: str, title: str, error: TrainingError) -> Finding:
    return Finding(code, title, "look", 0, 0, f"This was not looked at: {error}.", "Make it possible, and audit again.")


def _languages(history: History, spoken: Sequence[str], seed: int) -> Finding:
    table = history.table
    told = np.array([bool(code) for code in table.languages])
    counts = audit_table.counted(spoken)
    few = [code for code, n in counts if code and n < audit_table.RARE]
    rows: list[list[Cell]] = [
        [code or "?", n, sum(1 for own, given in zip(spoken, table.languages, strict=True) if own == code and given)] for code, n in counts
    ]
    sample = np.random.default_rng(seed).permutation(np.flatnonzero(told))[:READ_ALOUD].tolist()
    heard = [(i, *detect(table.texts[i])) for i in sample]
    wrong = [i for i, code, sure in heard if sure >= SURE and code not in (UNKNOWN, normalise(table.languages[i]))]
    doubt = f" Of {len(sample)} tickets with a tag that were read, {len(wrong)} read as another language." if sample else ""
    return Finding(
        "languages", "Languages", "look" if few or len(wrong) > 0.1 * len(sample) else "fine", len(few), len([code for code, _ in counts if code]),
        f"{int(told.sum())} tickets say their language, {len(table) - int(told.sum())} were guessed from the text.{doubt} "
        f"A language with fewer than {audit_table.RARE} tickets is hardly learned: the fast path will send it to people.",
        "Label more tickets of the rare languages, or let the deep path read them." if few else "Nothing.",
        ("language", "tickets", "of them told"), rows[:MOST_ROWS], {"Tickets by language": [(code or "?", float(n)) for code, n in counts[:20]]}, unit="languages",
    )  # fmt: skip


def _near_duplicates(history: History, judged: OutOfFold) -> list[Finding]:
    table, group = history.table, judged.group
    sizes = np.bincount(group, minlength=len(group))  # a group is named after its first ticket
    copies = int(len(group) - np.count_nonzero(sizes))
    largest = [number for number in np.argsort(-sizes, kind="stable")[:5].tolist() if sizes[number] > 1]
    findings = [Finding(
        "near_duplicates", "Near-duplicates", "look" if copies > 0.05 * len(table) else "fine", copies, len(table),
        "Tickets with nearly the same words as an earlier one (four in five). They teach little, and where a copy stands in the test as well "
        "as in the training, figures flatter; training keeps them on one side.",
        "Test on later tickets, or on a split that keeps them together, as training does." if copies else "Nothing.",
        ("times", "ticket"), [[int(sizes[number]), excerpt(table.texts[number])] for number in largest],
    )]  # fmt: skip
    for name, labels in table.labels.items():
        found = ambiguity.disagreements(name, labels, group)
        groups = int(np.count_nonzero(np.bincount(group[[bool(label) for label in labels]]) > 1))
        who = ambiguity.by_annotator(found, history.annotators)
        rows: list[list[Cell]] = []
        for one in found[:MOST_ROWS]:
            counts = audit_table.counted(one.labels)
            said = ", ".join(f"{n} {label}" for label, n in counts[:3]) + (", ..." if len(counts) > 3 else "")
            for label, _ in counts[:-4:-1]:  # one ticket of each label, the rarest first: it is the odd one out
                i = one.tickets[one.labels.index(label)]
                rows.append([said, history.places[i].row, table.ids[i], label, history.annotators[i], excerpt(table.texts[i])])
        apart = "; ".join(f"{name_} differs from the others on {n} of {of}" for name_, (n, of) in sorted(who.items(), key=lambda w: -w[1][0])[:5])
        findings.append(Finding(
            f"disagreement_{name}", f"Nearly the same text, another {name}", "problem" if groups and len(found) > 0.1 * groups else "look" if found else "fine",
            len(found), groups,
            "Groups of near-duplicates whose tickets do not have the same label. No router can be right on both, and each that is learned from "
            f"teaches the opposite of another.{' ' + apart + '.' if apart else ''}",
            "Agree on what decides, write it into the taxonomy's definitions, and correct these tickets." if found else "Nothing.",
            ("in the group", "row", "id", name, "annotator", "ticket"), rows, unit="groups",
        ))  # fmt: skip
    return findings


def _suspects(history: History, judged: OutOfFold, suspects: Sequence[Suspect], target: str) -> Finding:
    own = [suspect for suspect in suspects if suspect.target == target]
    labelled = sum(1 for label in history.table.labels[target] if label)
    accuracy = next(float((one.best == one.codes)[one.codes >= 0].mean()) for one in judged.targets if one.name == target)
    pairs = audit_table.counted([f"{suspect.given} → {suspect.suggested}" for suspect in own])
    rows: list[list[Cell]] = [
        [history.places[s.ticket].row, history.table.ids[s.ticket], s.given, s.suggested, round(s.score, 3), ", ".join(s.words),
         excerpt(history.table.texts[s.ticket])] for s in own[:MOST_ROWS]
    ]  # fmt: skip
    return Finding(
        f"suspects_{target}", f"Suspected errors in {target}", "problem" if len(own) > 0.1 * labelled else "look" if own else "fine",
        len(own), labelled,
        f"Classifiers that never saw these tickets are sure of another label (they agree with {accuracy:.0%} of all labels). Wrong labels cost "
        "accuracy twice: in what is learned, and in what it is judged by.",
        "Look through the worksheet (--worksheet FILE), fill in `corrected` where the label is wrong, and merge it back." if own else "Nothing.",
        ("row", "id", "given", "suggested", "score", "words", "ticket"), rows,
        {"From given to suggested": [(name, float(n)) for name, n in pairs[:12]]} if own else {},
    )  # fmt: skip


def _by_annotator(history: History, suspects: Sequence[Suspect]) -> list[Finding]:
    everyone = audit_table.counted([who for who in history.annotators if who])
    if len(everyone) < 2:
        return []
    suspected = dict(audit_table.counted(history.annotators[i] for i in {suspect.ticket for suspect in suspects}))
    usual = sum(suspected.get(who, 0) for who, _ in everyone) / sum(n for _, n in everyone)
    rows: list[list[Cell]] = [[who, n, suspected.get(who, 0), round(suspected.get(who, 0) / n, 3)] for who, n in everyone]
    rows.sort(key=lambda row: -float(row[3]))
    much = [row for row in rows if float(row[3]) > 2 * usual and int(row[2]) >= 5]
    return [Finding(
        "annotators", "Suspects by annotator", "look" if much else "fine", len(much), len(everyone),
        f"Annotators with more than twice the usual share of suspected tickets ({usual:.1%}). They may have read the definitions in another way, "
        "or have the hard tickets.",
        "Look at their suspects together with them." if much else "Nothing.",
        ("annotator", "tickets", "suspected", "share"), rows[:MOST_ROWS], unit="annotators",
    )]  # fmt: skip


def _confused(target: noise.Judged) -> Finding:
    pairs = ambiguity.confused(target)
    rows: list[list[Cell]] = [
        [p.first, p.second, f"{p.first_as_second} of {p.of_first}", f"{p.second_as_first} of {p.of_second}"] for p in pairs[:MOST_ROWS]
    ]
    return Finding(
        f"one_{target.name}", f"Two {target.name} labels that may be one", "look" if pairs else "fine", len(pairs), len(target.labels),
        f"Pairs of labels of which at least {ambiguity.BOTH_WAYS:.0%} look like the other one, both ways. Their words do not tell them apart, so "
        "neither people nor a router will be sure.",
        "Join them, or write down what tells them apart and label anew by that." if pairs else "Nothing.",
        ("first", "second", "first that look like second", "second that look like first"), rows, unit="labels",
    )  # fmt: skip


def _halves(history: History, spoken: Sequence[str], target: str, seed: int) -> Finding:
    table = history.table
    found = ambiguity.halves(target, table.texts, table.labels[target], spoken, seed)
    rows: list[list[Cell]] = [
        [one.label, one.tickets[side], ", ".join(one.words[side]), excerpt(table.texts[one.examples[side]]), round(one.apart, 2)]
        for one in found[:MOST_ROWS] for side in (0, 1)
    ]  # fmt: skip
    return Finding(
        f"two_{target}", f"A {target} label that may be two", "look" if found else "fine", len(found), len(table.label_names(target)),
        "Labels whose tickets, in the most common language, fall in two parts that lie about as far apart as two labels usually do (1 in the last column). "
        "Two works under one name may want two teams.",
        "Ask whether the same people do both; if not, split the label." if found else "Nothing.",
        ("label", "tickets", "words", "the most typical", "apart"), rows, unit="labels",
    )  # fmt: skip
