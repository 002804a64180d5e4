import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import duplicates
from training.features import TermCounts


def groups(texts: list[str]) -> list[int]:
    counts = TermCounts.of(texts)
    numbers: list[int] = duplicates.groups(counts.words, counts.word_hashes).tolist()
    return numbers


def words(first: int, n: int) -> list[str]:
    return [f"word{i}x" for i in range(first, first + n)]


def test_tickets_that_differ_in_a_word_or_in_their_order_are_one_group() -> None:
    base = words(0, 20)
    texts = [" ".join(base), "something else entirely", " ".join([*base[:-1], "changed"]), " ".join(reversed(base)), " ".join(base).upper()]
    assert groups(texts) == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(("shared", "together"), [(16, True), (12, False)])
def test_the_line_is_drawn_at_the_share_of_common_words(shared: int, together: bool) -> None:
    # 16 of 20 distinct words in common is Jaccard 0.8 on the dot; 12 of 20 is 0.6.
    apart = (20 - shared) // 2
    left = " ".join(words(0, shared) + words(100, apart))
    right = " ".join(words(0, shared) + words(200, apart))
    assert shared / (shared + 2 * apart) == shared / 20
    found = groups([left, right])
    assert (found[0] == found[1]) is together


def test_nearly_every_near_duplicate_is_found_and_no_stranger_is_taken_for_one() -> None:
    random.seed(0)
    texts = []
    for i in range(200):
        base = words(1000 * i, 30)
        texts += [" ".join(base), " ".join(random.sample(base[:-5], 25))]  # 25 of 30 in common
    found = groups(texts)
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert sum(left == right for left, right in pairs) >= 199
    assert len({left for left, _ in pairs}) == 200


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    base = words(0, 30)
    texts = [" ".join([*base[:-1], f"end{i}"]) for i in range(10)]
    assert set(groups(texts)) == {0}


def test_tickets_without_words_are_not_one_group() -> None:
    assert groups(["...", "", "---"]) == [0, 1, 2]


@given(st.lists(st.text(st.sampled_from("abc "), max_size=12), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_group_is_named_after_its_first_ticket_and_holds_every_copy(texts: list[str]) -> None:
    found = groups(texts)
    assert all(found[number] == number <= place for place, number in enumerate(found))
    for i, left in enumerate(texts):
        for j in range(i):
            if set(left.split()) and set(left.split()) == set(texts[j].split()):
                assert found[i] == found[j]
            if not set(left.split()) & {word for text in texts[:i] for word in text.split()}:
                assert found[i] == i


def test_the_order_of_the_tickets_makes_no_other_groups() -> None:
    texts = [" ".join([*words(50 * (i % 7), 20), f"own{i}"]) for i in range(28)]
    straight = np.array(groups(texts))
    order = np.random.default_rng(0).permutation(28)
    shuffled = np.array(groups([texts[i] for i in order]))
    assert np.array_equal(straight[order][:, None] == straight[order], shuffled[:, None] == shuffled)
    assert len(set(straight.tolist())) == 7
