"""The learning curve: more tickets, better answers; and what it says of the next ones."""

from dataclasses import replace

import pytest

from training.curve import SHARES, Curve, Point, expected, learning_curve
from training.errors import TrainingError
from training.table import TicketTable

LANGUAGES = ("fr", "en")


def only(table: TicketTable, kept: list[int]) -> TicketTable:
    columns = {name: [own[i] for i in kept] for name, own in table.labels.items()}
    return replace(table, texts=[table.texts[i] for i in kept], labels=columns, languages=[table.languages[i] for i in kept])


@pytest.fixture(scope="module")
def small(table: TicketTable) -> TicketTable:
    return only(table, [i for i, code in enumerate(table.languages) if code in LANGUAGES])


@pytest.fixture(scope="module")
def curve(small: TicketTable) -> Curve:
    return learning_curve(small)


def test_it_rises_with_the_tickets_and_stands_on_all_of_them(curve: Curve, small: TicketTable) -> None:
    for name in ("kind", "department"):
        points = [point for point in curve.points if point.target == name]
        assert len(points) == len(SHARES)
        learned = [point.tickets for point in points]
        assert learned == sorted(learned)
        assert learned[-1] == len(small) * 4 // 5  # five folds
        assert points[-1].accuracy > points[0].accuracy + 0.1
        assert all(point.low < point.accuracy < point.high for point in points)


def test_its_parts_are_the_labels_and_languages_and_add_up_to_the_points(curve: Curve, small: TicketTable) -> None:
    last = {point.target: point.accuracy for point in curve.points}
    for name in ("kind", "department"):
        for by in (name, "language"):
            parts = [part for part in curve.parts if (part.target, part.by) == (name, by)]
            assert {part.name for part in parts} == set(LANGUAGES if by == "language" else small.label_names(name))
            assert sum(part.tickets for part in parts) == len(small)
            assert sum(part.tickets * part.full for part in parts) / len(small) == pytest.approx(last[name], abs=1e-3)
    gains = [part.full - part.half for part in curve.parts]
    assert gains == sorted(gains, reverse=True)
    assert all(part.full > part.half for part in curve.parts if part.won > part.lost and part.p_value < 0.01)


def test_the_same_seed_gives_the_same_curve(curve: Curve, small: TicketTable) -> None:
    assert learning_curve(small) == curve


def test_errors_that_fall_by_a_power_go_on_to_do_so() -> None:
    points = [Point("kind", n, 1 - 2 * n**-0.5, 0, 1) for n in (500, 1000, 2000, 4000)]
    assert expected(points, 16_000) == pytest.approx(1 - 2 * 16_000**-0.5, abs=1e-6)


def test_a_curve_that_does_not_rise_promises_nothing() -> None:
    assert expected([Point("kind", n, accuracy, 0, 1) for n, accuracy in ((100, 0.9), (200, 0.88), (400, 0.87))], 800) == 0.87


def test_of_one_label_there_is_nothing_to_learn() -> None:
    with pytest.raises(TrainingError, match="fewer than two labels"):
        learning_curve(TicketTable(["a", "b"], {"kind": ["incident", "incident"]}, ["", ""], ("body",)))
