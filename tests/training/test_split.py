from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.split import FOLDS, folds


@given(
    tickets=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 11)), min_size=2, max_size=40).filter(lambda t: len({g for _, g in t}) > 1),
    seed=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_every_ticket_is_held_out_once_and_no_group_stands_on_both_sides(tickets: list[tuple[str, int]], seed: int) -> None:
    labels = [label for label, _ in tickets]
    group = np.array([number for _, number in tickets])
    made = folds(labels, group, seed)
    assert len(made) == min(FOLDS, len(set(group.tolist())))
    assert sorted(np.concatenate([fold.held_out for fold in made]).tolist()) == list(range(len(tickets)))
    for fold in made:
        assert len(fold.held_out) > 0
        assert sorted([*fold.train.tolist(), *fold.held_out.tolist()]) == list(range(len(tickets)))
        assert not set(group[fold.train].tolist()) & set(group[fold.held_out].tolist())


def test_labels_are_spread_evenly() -> None:
    labels = ["common"] * 70 + ["other"] * 25 + ["rare one"] * 3 + ["rare two"] * 2
    for fold in folds(labels, np.arange(100), seed=0):
        held_out = Counter(labels[i] for i in fold.held_out)
        assert held_out["common"] == 14
        assert held_out["other"] == 5


def test_the_same_seed_gives_the_same_folds() -> None:
    labels = list("ab") * 50
    first, again, other = ([fold.held_out.tolist() for fold in folds(labels, np.arange(100), seed)] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_group_goes_where_its_first_ticket_goes_whatever_its_labels() -> None:
    group = np.repeat(np.arange(20), 5)
    for fold in folds(list("abcde") * 20, group, seed=0):
        assert all(n == 5 for n in Counter(group[fold.held_out].tolist()).values())


@pytest.mark.parametrize("group", [[0], [0, 0, 0]])
def test_one_distinct_ticket_cannot_be_split(group: list[int]) -> None:
    with pytest.raises(ValueError, match="fewer than two distinct tickets"):
        folds(["a"] * len(group), np.array(group), seed=0)
