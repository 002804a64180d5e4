"""What `/app/misroutes` shows: the report itself, and what is made of it for the eye."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from service.pages.asked import Asked, PeriodLink, beside, periods
from service.pages.charts import Chart, Mark, Series, layers, lines, promises
from service.pages.html import monday, week_of
from service.pages.words import CAUSES, COMPARED, COURSES, FACETS, FIGURES, SIGNALS, TIMED
from service.reports.schemas import Band, Cause, Duration, Filters, Group, Matrix, MisrouteReport, Share, Version, WeekMix

MOST_LAYERS = 7  # languages that a chart tells apart; the rest are one layer
MOST_MARKS = 12
UNREADABLE_WEEKS = 53  # from here on the day and month alone would stand there twice
MOST_PAIRS = 12
MOST_ROWS = 12  # of a facet
PALE = 0.1  # of a row: the share that is the hottest there may be where all are smaller
MOST_CHANGES = 20


@dataclass(frozen=True)
class Cell:
    """Tickets decided as the row says that ended as the column says; `heat` 0 to 9 by their share of the row."""

    final: str
    tickets: int
    heat: int
    right: bool


@dataclass(frozen=True)
class Row:
    decided: str
    cells: list[Cell]
    tickets: int
    left: float | None


@dataclass(frozen=True)
class Times:
    """The three durations of the tickets that share a value: (count, median, 90th percentile, sum) of each, None where there is none."""

    value: str
    right_team: tuple[int, float | None, float | None, float] | None
    answer: tuple[int, float | None, float | None, float] | None
    misplaced: tuple[int, float | None, float | None, float] | None


@dataclass(frozen=True)
class Marked:
    """A model version and the letter that marks in the charts when it came."""

    letter: str
    version: Version


@dataclass(frozen=True)
class MisroutesPage:
    """The whole page."""

    docs: bool
    asked: Asked
    periods: list[PeriodLink]
    before: str | None
    after: str | None
    choices: dict[str, list[str]]
    report: MisrouteReport
    matrix: list[Row]
    split_by: dict[str, list[Group]]
    timed: dict[str, list[Times]]
    answers: dict[str, Duration | None]
    mix: list[tuple[WeekMix, list[float | None]]]
    versions: list[Marked]
    misrouted_chart: Chart
    recognised_chart: Chart
    promised_charts: dict[str, Chart]
    signals_chart: Chart
    languages_chart: Chart
    facets: dict[str, str] = field(default_factory=lambda: FACETS)
    timed_names: dict[str, str] = field(default_factory=lambda: TIMED)
    courses: dict[str, str] = field(default_factory=lambda: COURSES)
    causes: dict[Cause, str] = field(default_factory=lambda: CAUSES)
    compared: dict[str, str] = field(default_factory=lambda: COMPARED)
    figures: dict[str, str] = field(default_factory=lambda: FIGURES)
    signals: dict[str, str] = field(default_factory=lambda: SIGNALS)
    most_pairs: int = MOST_PAIRS
    most_changes: int = MOST_CHANGES
    most_rows: int = MOST_ROWS


def overview(report: MisrouteReport, asked: Asked, today: date, labels: Mapping[str, Sequence[str]], docs: bool) -> MisroutesPage:
    """The page for a report; `labels`: what is known of a filter beyond what the report has."""
    weeks = report.by.week
    versions = [Marked(_letter(i), version) for i, version in enumerate(_most_used(report.versions))]
    marks = _marks(versions, [group.value for group in weeks])
    names = [_short(group.value, len(weeks)) for group in weeks]
    mix = report.drift.weeks
    mix_names, mix_marks = [_short(week.week, len(mix)) for week in mix], _marks(versions, [week.week for week in mix])
    layered = _layers(mix)
    before, after = beside(asked)
    return MisroutesPage(
        docs=docs,
        asked=asked,
        periods=periods(asked, today),
        before=before,
        after=after,
        choices=_choices(report, asked, labels),
        report=report,
        matrix=rows(report.matrix["department"]) if "department" in report.matrix else [],
        split_by={facet: getattr(report.by, facet) for facet in FACETS},
        timed={facet: list(_times(report, facet)) for facet in TIMED},
        answers={kind: next((one for one in report.minutes.to_answer.by.get("kind", []) if one.value == kind), None) for kind in ("incident", "advisory")},
        mix=[(week, [series.values[i] for series in layered]) for i, week in enumerate(mix)],
        versions=versions,
        misrouted_chart=lines(
            "Share of judged tickets that were misrouted, by week", names,
            [Series(f"in {target}", [_share(group.misrouted.get(target)) for group in weeks]) for target in ("department", "kind")], marks,
        ),
        recognised_chart=lines(
            "Share of real incidents that were recognised, by week", names, [Series("real incidents recognised", _recalls(weeks))], marks,
            least=_floor(_recalls(weeks)),
        ),
        promised_charts={target: promises(f"Confidence of {target}: promised and come true", _bands(confidence.bands)) for target, confidence in report.confidence.items()},
        signals_chart=lines(
            "What came in by week: reviewed, overridden, with unfamiliar words", mix_names,
            [
                Series("left for review", [week.review for week in mix]),
                Series("overridden by a person", [week.overridden for week in mix]),
                Series("unfamiliar to the model", [week.unfamiliar for week in mix]),
            ], mix_marks,
        ),
        languages_chart=layers("Languages by week", mix_names, layered),
    )  # fmt: skip


def rows(matrix: Matrix) -> list[Row]:
    """The matrix by rows; labels that no judged ticket has are left out."""
    counts = matrix.decided_by_final
    used = [i for i in range(len(matrix.labels)) if sum(counts[i]) or sum(row[i] for row in counts)]
    hottest = max((counts[i][j] / sum(counts[i]) for i in used for j in used if i != j and counts[i][j]), default=1.0)
    found = []
    for i in used:
        total = sum(counts[i])
        cells = [Cell(matrix.labels[j], counts[i][j], _heat(counts[i][j], total, hottest), i == j) for j in used]
        found.append(Row(matrix.labels[i], cells, total, (total - counts[i][i]) / total if total else None))
    return found


def _heat(tickets: int, of: int, hottest: float) -> int:
    # What is wrong are a few in a hundred; they are told apart, though a matrix with next to nothing wrong stays pale.
    return max(1, min(9, round(9 * tickets / of / max(hottest, PALE)))) if tickets else 0


def _times(report: MisrouteReport, facet: str) -> Iterable[Times]:
    minutes = report.minutes
    found = [{one.value: (one.count, one.median, one.p90, one.sum) for one in durations.by.get(facet, [])} for durations in (minutes.to_right_team, minutes.to_answer, minutes.misplaced)]  # fmt: skip
    for value in dict.fromkeys(value for durations in found for value in durations):
        yield Times(value, *(durations.get(value) for durations in found))


def _most_used(versions: Sequence[Version]) -> list[Version]:
    most = sorted(versions, key=lambda version: -version.tickets)[:MOST_MARKS]
    return sorted(most, key=lambda version: (version.first, version.version))


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _marks(versions: Sequence[Marked], weeks: Sequence[str]) -> list[Mark]:
    """A mark at each week in which a version came."""
    came: dict[int, str] = {}
    for marked in versions:
        year, week, _ = marked.version.first.isocalendar()
        if (name := f"{year}-W{week:02}") in weeks:
            place = weeks.index(name)
            came[place] = f"{came.get(place, '')} {marked.letter}".strip()
    return [Mark(place, letters) for place, letters in came.items()]


def _short(week: str, among: int) -> str:
    return week_of(week) if among <= UNREADABLE_WEEKS else f"{monday(week):%-d %b %y}"


def _share(share: Share | None) -> float | None:
    return share.share if share else None


def _recalls(groups: Sequence[Group]) -> list[float | None]:
    return [group.incidents.recall for group in groups]


def _floor(values: Sequence[float | None]) -> float:
    """Where an axis may begin so that what is near to 100% can be told apart."""
    lowest = min((value for value in values if value is not None), default=0.0)
    return max(0.0, round(10 * (lowest - 0.1)) / 10)


def _bands(bands: Sequence[Band]) -> list[Band]:
    return [band for band in bands if band.right.of]


def _layers(weeks: Sequence[WeekMix]) -> list[Series]:
    sums: dict[str, float] = {}
    for week in weeks:
        for language, share in week.languages.items():
            sums[language] = sums.get(language, 0.0) + share * week.tickets
    shown = sorted(sums, key=lambda language: (-sums[language], language))[:MOST_LAYERS]
    series = [Series(language, [week.languages.get(language, 0.0) for week in weeks]) for language in shown]
    others = [max(0.0, sum(week.languages.values()) - sum(week.languages.get(language, 0.0) for language in shown)) for week in weeks]
    return [*series, Series("others", list(others))] if len(sums) > len(shown) else series


def _choices(report: MisrouteReport, asked: Asked, labels: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    found = {}
    for name in Filters.model_fields:
        values = {group.value for group in getattr(report.by, name)} | set(labels.get(name, ()))
        found[name] = sorted(values | {asked.filtered[name]} if name in asked.filtered else values)
    return found
