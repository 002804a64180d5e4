"""A trained router in memory: texts in, an answer for every target out."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import language, scoring
from model.tokens import Words

_BREAK = frozenset("\n.?!;:")
_LONGEST_PHRASE = 4  # words

SURE_OF_LANGUAGE = 0.5  # below this the language head has met a language it never learned


@dataclass(frozen=True)
class Target:
    """A question that the router answers.

    `first`: the column of its first label in the scores; `sharpness` and `offsets` turn scores into calibrated
    probabilities (``softmax(sharpness * score + offsets)``); `threshold`: the confidence from which the answer keeps the
    `promise` (a precision), None where no confidence does; `protect`: for labels whose recall comes first, the probability
    from which the label is "probable" (see `model.decision`).
    """

    name: str
    labels: tuple[str, ...]
    first: int
    sharpness: float
    offsets: tuple[float, ...]
    promise: float
    threshold: float | None
    protect: dict[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + len(self.labels))

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities, (texts, labels), from all scores, (texts, columns)."""
        logits: NDArray[np.float64] = scores[:, self.columns] * self.sharpness + np.asarray(self.offsets)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits


class Answers(NamedTuple):
    """What the router says of some texts; every list and array has one entry a text.

    `probabilities`: for each target (texts, labels); `languages`: code and confidence; `words` and `known`: how many words,
    how many of them training had seen; `scores`: (texts, columns).
    """

    probabilities: dict[str, NDArray[np.float64]]
    languages: list[tuple[str, float]]
    words: NDArray[np.int32]
    known: NDArray[np.int32]
    scores: NDArray[np.float32]


class Phrase(NamedTuple):
    """Neighbouring words that pulled the answer, in the customer's spelling, where they stand and by how much."""

    text: str
    weight: float
    start: int
    end: int


@dataclass(frozen=True)
class Router:
    """The fast path: one table of rows, one column a label.

    `languages`: the language head, a Target named ``language`` whose columns come last, or None where training knew one
    language only (`only_language`). `least_known`: the share of known words under which a text is unlike anything that
    training saw. `text_columns`: the columns of a table that hold a ticket's text (one or two, subject first). `version`
    names the bundle.
    """

    rows: scoring.Rows
    bias: NDArray[np.float32]
    targets: tuple[Target, ...]
    languages: Target | None
    only_language: str | None
    least_known: float
    text_columns: tuple[str, ...]
    version: str

    def answer(self, texts: list[str], told: list[str | None] | None = None) -> Answers:
        """Answer cleaned `texts`; `told` gives the languages that are known beforehand (codes, None where not).

        Raises TypeError for a lone string: its letters would be taken for texts.
        """
        if isinstance(texts, str):  # type: ignore[unreachable]  # callers without types are who it is for
            raise TypeError("expected a list of texts, found one string: put it in a list")
        scores, words, known = scoring.score(texts, self.rows, self.bias)
        probabilities = {target.name: target.probabilities(scores) for target in self.targets}
        languages = self._languages(texts, told, scores, words, known)
        return Answers(probabilities, languages, words, known, scores)

    def explain(self, text: str, target: Target, label: int, most: int = 6) -> list[Phrase]:
        """The phrases of a cleaned text that pulled `target` towards (weight above 0) or away from its label number
        `label`, strongest first. Over all phrases the weights add up to the label's score less its bias."""
        return self.phrases(text, target.first + label)[:most]

    def phrases(self, text: str, column: int) -> list[Phrase]:
        """All of a cleaned text's phrases and what each adds to the score of `column`, strongest first.

        A phrase is a run of up to four neighbouring words of one sentence that pull the same way.
        """
        parts, words = scoring.score_parts(text, self.rows, self.bias)
        weights = parts[:, column].astype(float)
        phrases: list[Phrase] = []
        run: list[int] = []
        for i in range(len(weights) + 1):
            ends = i == len(weights) or (run and not _joins(text, words, weights, run, i))
            if run and ends:
                start, end = int(words.begins[run[0]]), int(words.ends[run[-1]])
                phrases.append(Phrase(text[start:end], float(weights[run].sum()), start, end))
                run = []
            run.append(i)
        return sorted(phrases, key=lambda phrase: (-abs(phrase.weight), phrase.start))

    def _languages(
        self,
        texts: list[str],
        told: list[str | None] | None,
        scores: NDArray[np.float32],
        words: NDArray[np.int32],
        known: NDArray[np.int32],
    ) -> list[tuple[str, float]]:
        if self.languages is not None:
            probabilities = self.languages.probabilities(scores)
            best = probabilities.argmax(axis=1)
            sure = probabilities[np.arange(len(texts)), best].tolist()
            guesses = [(self.languages.labels[i], round(p, 4)) for i, p in zip(best.tolist(), sure, strict=True)]
        else:
            # One language only: what speaks for it is that its words are known.
            share = known / np.maximum(words, 1)
            guesses = [(self.only_language or language.UNKNOWN, round(p, 4)) for p in share.tolist()]
        result = []
        for i, guess in enumerate(guesses):
            code = told[i] if told else None
            if code:
                guess = (code, 1.0)
            elif not texts[i]:
                guess = (language.UNKNOWN, 0.0)
            elif guess[1] < SURE_OF_LANGUAGE:
                guess = language.detect(texts[i])
            result.append((guess[0], round(guess[1], 4)))
        return result


def _joins(text: str, words: Words, weights: NDArray[np.float64], run: list[int], i: int) -> bool:
    """Whether word `i` goes on the phrase `run`: few words so far, same direction, nothing but a little space between."""
    end = words.ends[run[-1]]
    gap = text[end : words.begins[i]]
    near = len(gap) <= 2 and not _BREAK.intersection(gap) and text[end - 1] not in _BREAK
    return near and len(run) < _LONGEST_PHRASE and (weights[i] > 0) == (weights[run[-1]] > 0)
