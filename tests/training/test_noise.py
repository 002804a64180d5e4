import builtins
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from training import noise
from training.errors import TrainingError
from training.noise import OutOfFold
from training.table import TicketTable

FLIPPED = 0.08


@pytest.fixture(scope="module")
def flipped(table: TicketTable) -> tuple[TicketTable, dict[int, str]]:
    """English tickets of the corpus, some with another department than the right one, which is told."""
    english = [i for i, code in enumerate(table.languages) if code in ("en", "fr")]
    chance = np.random.default_rng(0)
    departments = [table.labels["department"][i] for i in english]
    names = sorted(set(departments))
    right = {}
    for i in chance.choice(len(english), round(FLIPPED * len(english)), replace=False).tolist():
        right[i] = departments[i]
        departments[i] = str(chance.choice([name for name in names if name != right[i]]))
    own = {"texts": [table.texts[i] for i in english], "languages": [table.languages[i] for i in english], "ids": [table.ids[i] for i in english]}
    labels = {"department": departments, "kind": [table.labels["kind"][i] for i in english]}
    return TicketTable(**own, labels=labels, text_columns=("subject", "body")), right  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judged(flipped: tuple[TicketTable, dict[int, str]]) -> OutOfFold:
    return noise.out_of_fold(flipped[0])


def test_most_flipped_labels_are_found_and_the_right_one_is_suggested(judged: OutOfFold, flipped: tuple[TicketTable, dict[int, str]]) -> None:
    right = flipped[1]
    found = [suspect for suspect in noise.suspects(judged) if suspect.target == "department"]
    hits = [suspect for suspect in found if suspect.ticket in right]
    assert len(hits) > 0.75 * len(right)
    assert len(hits) > 0.6 * len(found)
    assert sum(suspect.suggested == right[suspect.ticket] for suspect in hits) > 0.8 * len(hits)
    first = found[: len(right) // 2]
    assert sum(suspect.ticket in right for suspect in first) > 0.9 * len(first)


def test_a_suspect_tells_what_was_given_how_probable_it_is_and_which_words_of_the_ticket_pull(
    judged: OutOfFold, flipped: tuple[TicketTable, dict[int, str]]
) -> None:
    table = flipped[0]
    suspects = noise.suspects(judged)
    assert [suspect.score for suspect in suspects] == sorted((suspect.score for suspect in suspects), reverse=True)
    for suspect in suspects:
        target = next(target for target in judged.targets if target.name == suspect.target)
        probabilities = dict(zip(target.labels, target.probabilities[suspect.ticket].tolist(), strict=True))
        assert suspect.given == table.labels[suspect.target][suspect.ticket] != suspect.suggested
        assert suspect.suggested == max(probabilities, key=lambda label: probabilities[label])
        assert suspect.self_confidence == probabilities[suspect.given]
        assert all(word in table.texts[suspect.ticket] for word in suspect.words)
    assert sum(bool(suspect.words) for suspect in suspects) > 0.95 * len(suspects)


def test_a_wrong_label_does_not_speak_for_itself_through_its_copies(table: TicketTable) -> None:
    """Ten copies of a ticket with a wrong label: each is judged by classifiers that saw none of them."""
    english = [i for i, code in enumerate(table.languages) if code == "en"]
    texts = [table.texts[i] for i in english]
    departments = [table.labels["department"][i] for i in english]
    place = max((i for i, name in enumerate(departments) if name == "telephony"), key=lambda i: len(texts[i]))
    texts += [f"{texts[place]} {n}" for n in range(10)]
    departments += ["backoffice"] * 10
    own = replace(table, texts=texts, labels={"department": departments}, languages=["en"] * len(texts), ids=[""] * len(texts))
    judged = noise.out_of_fold(own)
    target = judged.targets[0]
    assert len(set(judged.fold_of[judged.group == place].tolist())) == 1
    assert {target.labels[code] for code in target.best[-10:].tolist()} == {"telephony"}


def test_tickets_without_a_label_of_a_target_are_judged_and_never_suspected(flipped: tuple[TicketTable, dict[int, str]]) -> None:
    table = flipped[0]
    departments = ["" if i % 3 == 0 else label for i, label in enumerate(table.labels["department"])]
    judged = noise.out_of_fold(replace(table, labels={"department": departments}))
    assert judged.targets[0].probabilities.shape == (len(table), 8)
    np.testing.assert_allclose(judged.targets[0].probabilities.sum(axis=1), 1)
    assert not [suspect for suspect in noise.suspects(judged, explain=False) if suspect.ticket % 3 == 0]


def test_the_same_table_and_seed_give_the_same_suspects(judged: OutOfFold, flipped: tuple[TicketTable, dict[int, str]]) -> None:
    assert noise.suspects(noise.out_of_fold(flipped[0])) == noise.suspects(judged)


def test_without_cleanlab_it_is_said_what_to_install(judged: OutOfFold, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("cleanlab"):
            raise ModuleNotFoundError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrainingError, match=r"cleanlab.*pip install 'pointsman\[notebooks\]'"):
        noise.suspects(judged)


@pytest.mark.parametrize(("labels", "why"), [(["a"] * 4, "fewer than two labels"), (["a", "b", "a", "b"], "cannot be split")])
def test_what_cannot_be_judged_is_refused(labels: list[str], why: str) -> None:
    table = TicketTable(["the same words"] * 4, {"department": labels}, [""] * 4, ("body",))
    with pytest.raises(TrainingError, match=why):
        noise.out_of_fold(table)
