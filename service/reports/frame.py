"""Many stories as columns: what is a word as small numbers and a list of the words, so that a million take some hundred megabytes."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.database import EPOCH, microseconds
from service.reports.schemas import NOT_GIVEN, OTHERS, Filters

Codes = NDArray[np.integer]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]

MINUTE = 60_000_000  # microseconds
DAY = 24 * 60 * MINUTE
WEEK = 7 * DAY
MOST_VALUES = 100  # of a facet that are told apart; clients may send any number
TARGETS = ("department", "kind")
INCIDENT, ADVISORY = "incident", "advisory"


class Words(dict[str | None, int]):
    """Numbers for words, given in the order in which they are met; none is -1."""

    def __init__(self) -> None:
        super().__init__({None: -1})

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self) - 1
        return number

    @property
    def known(self) -> list[str]:
        """The words by their numbers."""
        return [word for word in self if word is not None]


@dataclass(frozen=True)
class Stories:
    """Columns of equal length. `codes`: numbers of `words`, under the names of `service.database.stories`; -1 where there is none.
    `numbers`: moments in microseconds, confidences, counts; NaN where there is none. `text`, `ids`: see `repository.read`."""

    codes: dict[str, Codes]
    words: dict[str, Words]
    numbers: dict[str, Numbers]
    text: NDArray[np.uint64] | None = None
    ids: NDArray[np.bytes_] | None = None

    def __len__(self) -> int:
        return len(self.numbers["created_at"])

    def where(self, mask: Mask | NDArray[np.intp]) -> "Stories":
        """Those of `mask`, or at these places."""
        if mask.dtype == np.bool_ and mask.all():
            return self
        return Stories(
            {name: column[mask] for name, column in self.codes.items()},
            self.words,
            {name: column[mask] for name, column in self.numbers.items()},
            None if self.text is None else self.text[mask],
            None if self.ids is None else self.ids[mask],
        )

    def code(self, column: str, word: str | None) -> int:
        """The number of a word in `column`; one that no row has where it is not known."""
        return self.words[column].get(word, -2)

    def has(self, column: str, word: str) -> Mask:
        """Whether `column` says `word`."""
        return np.asarray(self.codes[column] == self.code(column, word))

    def reasoned(self, *beginnings: str) -> Mask:
        """Whether any of the decision's reasons begins so."""
        meant = [any(reason.startswith(beginnings) for reason in reasons.split(" ")) for reasons in self.words["reasons"].known]
        return np.asarray(np.array([*meant, False])[self.codes["reasons"]])  # -1, no reason, is the last

    @cached_property
    def judged(self) -> Mask:
        """Whether it is closed."""
        return np.asarray(self.numbers["closed"] == 1)

    @cached_property
    def wrong(self) -> dict[str, Mask]:
        """For each target whether it is misrouted in it."""
        return {target: self.judged & self.decided(target) & (self.codes[target] != self.codes[f"final_{target}"]) for target in TARGETS}

    def decided(self, target: str) -> Mask:
        """Whether the router answered `target` at all."""
        return np.asarray(self.codes[target] >= 0)

    @cached_property
    def week(self) -> Codes:
        """Weeks since the one that 1970 began in; they begin on Monday."""
        return week_of(self.numbers["created_at"])

    def matching(self, filters: Filters) -> Mask:
        """Which of them the `filters` let through."""
        mask = np.ones(len(self), np.bool_)
        for column, value in filters.model_dump(exclude_none=True).items():
            word = None if value == NOT_GIVEN else value
            fits = self.codes[column] == self.code(column, word)
            if column in TARGETS:
                fits = fits | (self.codes[f"final_{column}"] == self.code(column, word))
            mask &= fits
        return mask

    def facet(self, column: str, most: int = MOST_VALUES) -> tuple[NDArray[np.int16], list[str]]:
        """`column` with its most frequent words as 0, 1, ...; what was not given, and all the rarer words together, come last."""
        codes = self.codes[column]
        counts = np.bincount(codes.astype(np.intp) + 1, minlength=len(self.words[column]))
        frequent = np.argsort(-counts[1:], kind="stable")[:most]
        frequent = frequent[counts[1:][frequent] > 0]
        rare = int(counts[1:].sum() - counts[1:][frequent].sum())
        names = [self.words[column].known[code] for code in frequent] + [NOT_GIVEN] * bool(counts[0]) + [OTHERS] * bool(rare)
        places = np.full(len(counts), len(names) - 1, np.int16)
        places[0] = len(frequent)
        places[frequent + 1] = np.arange(len(frequent))
        return places[codes.astype(np.intp) + 1], names


def week_of(moments: Numbers) -> Codes:
    """See `Stories.week`."""
    return ((moments + 3 * DAY) // WEEK).astype(np.int32)  # 1970 began on a Thursday


def monday(week: int) -> date:
    """The day on which a week begins."""
    return date(1969, 12, 29) + timedelta(weeks=int(week))


def name_of(week: int) -> str:
    """As ISO 8601 says it: 2026-W48."""
    return monday(week).strftime("%G-W%V")


def start_of(day: date) -> int:
    """The moment at which a day begins."""
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))


def day_of(moment: float) -> date:
    """The day that a moment falls into."""
    return (EPOCH + timedelta(microseconds=int(moment))).date()
