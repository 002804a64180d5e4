"""Is the shipped corpus fit to learn from? `make corpus` asks this file, which prints a table and what is wrong.

Schema, counts, label balance, near-duplicates inside a language, across languages and between tickets and exam, the language
of the text against its field, richness of words, repeated five-word phrases, and patterns of personal data.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from model.cleaning import clean
from model.language import detect
from model.taxonomy import DATA, Taxonomy, load_taxonomy
from training import duplicates
from training.features import TermCounts

FIELDS = ["id", "subject", "body", "kind", "department", "language", "style"]
STYLES = frozenset(
    [
        "plain",
        "short",
        "long",
        "formal",
        "casual",
        "sms",
        "typos",
        "no-accents",
        "caps",
        "log",
        "headers",
        "quoted",
        "signature",
        "ticket-number",
        "mixed-language",
        "html",
        "non-native",
        "empty-subject",
        "useless-subject",
        "shouting",
        "calm",
        "vague",
        "polite",
        "question",
        "two-matters",
        "cross-words",
        "worked-before",
        "change-after-outage",
        "complaint",
        "over-report",
        "own-mistake",
        "premium",
        "reseller",
        "agency",
        "admin",
    ]
)
OTHERWISE_WRITTEN = frozenset({"no-accents", "mixed-language", "log", "headers", "html", "sms", "short"})  # styles that mislead language detection
UNDETECTED = frozenset({"sr"})
LEAST = {"tickets": {"core": (320, 18), "further": (30, 1)}, "exam": {"core": (60, 4), "further": (8, 0)}}  # tickets, of each combination
MOST_STRANGE = 0.1  # share of plainly written tickets that langdetect takes for another language: it is no judge of short texts

# Domains and addresses that anyone may use in examples: RFC 2606, 6761, 5737, 3849, and private networks.
_EMAIL = re.compile(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)")
_SAFE_DOMAIN = re.compile(r"(?:^|\.)(?:example|test|invalid|localhost)(?:\.[a-z]+)?$", re.I)
_IPV4 = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])")
_SAFE_IPV4 = re.compile(
    r"^(?:192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|127\.|0\.0\.0\.0|255\.|169\.254\.|100\.64\.)"
)
_CARD = re.compile(r"(?<!\d)(?:\d[ -]?){15}\d(?!\d)")


@dataclass(frozen=True)
class Set:
    """One file of tickets: where it is from, its language, its rows."""

    part: str
    language: str
    rows: list[dict[str, Any]]

    @property
    def texts(self) -> list[str]:
        return [clean(row["subject"], row["body"]) for row in self.rows]


def read(data: Path = DATA) -> list[Set]:
    """All files of tickets and exam. Raises ValueError with file and line where one is not JSON with the right fields."""
    sets = []
    for part in LEAST:
        for path in sorted((data / part).glob("*.jsonl")):
            rows = []
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                row = json.loads(line)
                if list(row) != FIELDS or not all(isinstance(value, str) for value in row.values()):
                    raise ValueError(f"{path}, line {number}: expected the fields {', '.join(FIELDS)}, each text, in this order")
                rows.append(row)
            sets.append(Set(part, path.stem, rows))
    return sets


def faults(sets: list[Set], taxonomy: Taxonomy) -> list[str]:
    """What is wrong, one line each; empty where the corpus is fit."""
    found = [
        f"no data/{part}/{code}.jsonl"
        for part in LEAST
        for code in _languages(taxonomy)
        if not any(s.part == part and s.language == code for s in sets)
    ]
    ids = Counter(row["id"] for one in sets for row in one.rows)
    found += [f"{name}: {count} tickets have this id" for name, count in ids.items() if count > 1]
    for one in sets:
        found += _faults_of(one, taxonomy)
    return found + _near_duplicates(sets)


def _languages(taxonomy: Taxonomy) -> tuple[str, ...]:
    return taxonomy.languages["core"] + taxonomy.languages["further"]


def _faults_of(one: Set, taxonomy: Taxonomy) -> list[str]:
    found = []
    where = f"{one.part}/{one.language}"
    least, least_each = LEAST[one.part]["core" if one.language in taxonomy.languages["core"] else "further"]
    kinds, departments = (taxonomy.targets[name].labels for name in ("kind", "department"))
    for row in one.rows:
        if row["language"] != one.language or row["kind"] not in kinds or row["department"] not in departments:
            found.append(f"{row['id']}: a label or language that is not one")
        if row["department"] == "sales" and row["kind"] != "advisory":
            found.append(f"{row['id']}: sales is always advisory")
        if not set(row["style"].split()) <= STYLES or not row["style"].strip():
            found.append(f"{row['id']}: a style that is not one")
        if not clean(row["subject"], row["body"]):
            found.append(f"{row['id']}: no text")
        found += [f"{row['id']}: {what}" for what in personal(f"{row['subject']}\n{row['body']}")]
    pairs = Counter((row["department"], row["kind"]) for row in one.rows)
    if len(one.rows) < least:
        found.append(f"{where}: {len(one.rows)} tickets, expected {least}")
    for department in departments:
        for kind in kinds:
            if (department, kind) != ("sales", "incident") and pairs[department, kind] < least_each:
                found.append(f"{where}: {pairs[department, kind]} of {department}, {kind}; expected {least_each}")
    plain, strange = misread(one)
    if plain and len(strange) > max(1, MOST_STRANGE * plain):
        found.append(f"{where}: {len(strange)} of {plain} plainly written tickets read like another language: {', '.join(strange[:5])}")
    return found


def personal(text: str) -> list[str]:
    """What looks like somebody's own: e-mail addresses, public addresses and card numbers that are not made for examples."""
    found = [
        f"the domain of an e-mail address is not an example ({domain})"
        for domain in _EMAIL.findall(text)
        if not (_SAFE_DOMAIN.search(domain) or _SAFE_IPV4.match(domain))
    ]
    found += [f"an address that is not for documentation ({address})" for address in _IPV4.findall(text) if _is_public(address)]
    return found + ["sixteen digits like a card's" for digits in _CARD.findall(text) if len(set(digits)) > 2]


def _is_public(address: str) -> bool:
    parts = [int(part) for part in address.split(".")]
    return max(parts) < 256 and parts[0] > 9 and not _SAFE_IPV4.match(address)  # 8.8.8.8 and version numbers begin below 10


def misread(one: Set) -> tuple[int, list[str]]:
    """How many tickets are plainly written, and the ids of those that langdetect takes for another language."""
    if one.language in UNDETECTED:
        return 0, []
    plain = [row for row in one.rows if not OTHERWISE_WRITTEN & set(row["style"].split()) and len(row["body"].split()) >= 12]
    told = [(row["id"], detect(row["body"])) for row in plain]
    return len(plain), [name for name, (code, sure) in told if code != one.language and sure > 0.9]


def repeated(texts: list[str], words: int = 5) -> float:
    """The share of the five-word phrases that more than one ticket has."""
    seen: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        found = re.findall(r"\w+", text.casefold())
        seen.update({tuple(found[i : i + words]) for i in range(len(found) - words + 1)})
    return sum(count for count in seen.values() if count > 1) / max(1, seen.total())


def _near_duplicates(sets: list[Set]) -> list[str]:
    rows = [row["id"] for one in sets for row in one.rows]
    counts = TermCounts.of([text for one in sets for text in one.texts])
    group = duplicates.groups(counts.words, counts.word_hashes)
    return [f"{rows[i]}: nearly the same words as {rows[first]}" for i, first in enumerate(group.tolist()) if first != i]


def table(sets: list[Set]) -> Table:
    """The corpus at a glance: per file, tickets, incidents, words, their richness, repeated phrases."""
    shown = Table(title="The corpus", title_justify="left")
    for name in ("set", "tickets", "incidents", "words a ticket", "distinct of 1,000 words", "repeated phrases", "empty subject"):
        shown.add_column(name, justify="left" if name == "set" else "right")
    for one in sets:
        texts = one.texts
        words = [word for text in texts for word in re.findall(r"\w+", text.casefold())]
        lengths = sorted(len(text.split()) for text in texts)
        useless = sum(bool({"empty-subject", "useless-subject"} & set(row["style"].split())) for row in one.rows)
        cells = [len(texts), sum(row["kind"] == "incident" for row in one.rows), f"{lengths[0]}-{lengths[len(lengths) // 2]}-{lengths[-1]}"]
        cells += [len(set(words[:1000])), f"{repeated(texts):.2%}", f"{useless / len(texts):.0%}"]
        shown.add_row(f"{one.part}/{one.language}", *map(str, cells))
    total = {part: sum(len(one.rows) for one in sets if one.part == part) for part in LEAST}
    shown.caption = ", ".join(f"{part}: {count} tickets" for part, count in total.items())
    return shown


def main() -> None:
    """Print the table and the faults; exit 1 where there are any."""
    sets = read()
    console = Console(width=120)
    console.print(table(sets))
    wrong = faults(sets, load_taxonomy())
    for fault in wrong:
        console.print(fault, markup=False, highlight=False)
    console.print("all checks hold" if not wrong else f"{len(wrong)} faults")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
