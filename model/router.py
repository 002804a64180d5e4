"""A trained router in memory: texts in, an answer for every target out."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import language, scoring
from model.deep import Deep

LONGEST_PHRASE = 4  # words
MOST_PHRASES = 6  # of a target that a decision tells
RANKS = 4  # labels of a target that are told: the most probable and its alternatives
SHORT = 40  # characters; of less langdetect tells little (59% of word pairs right in English), so half as much is enough to do without it
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
    """What the router says of some texts, by one `path`; every list and array has one entry a text.

    `targets`: those of the path for each text, calibrated for what it went by; `probabilities`: for each target (texts, labels); `top`: for
    each target (texts, `RANKS`) its most probable labels, best first, -1 where there are fewer; `phrases`: for each text, for each target, the phrases that pulled its best label as
    [start, end, weight], strongest first (none unless asked for); `languages`: code and confidence; `familiar`: whether enough of
    its words were seen in training, or on the deep path whether it is like any ticket of training, for the answers to mean something;
    `doubtful`: whether the deep path should be asked (never on the deep path, or where there is none); `scores`: (texts, columns), the fast
    path's.
    """

    path: Literal["fast", "deep"]
    targets: list[tuple[Target, ...]]
    probabilities: dict[str, NDArray[np.float32]]
    top: dict[str, NDArray[np.int32]]
    phrases: list[list[list[list[float]]]]
    languages: list[tuple[str, float]]
    familiar: list[bool]
    doubtful: list[bool]
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
    deep: Deep | None = None

    def answer(
        self, texts: list[str], told: list[str | None] | None = None, *, explain: bool = False, embeddings: NDArray[np.float32] | None = None
    ) -> Answers:
        """Answer cleaned `texts`; `told` gives the languages that are known beforehand (codes, None where not). With their `embeddings`
        (texts, dimensions), by the encoder that `deep` names, the deep path answers.

        Raises TypeError for a lone string: its letters would be taken for texts.
        """
        if isinstance(texts, str):  # type: ignore[unreachable]  # callers without types are who it is for
            raise TypeError("expected a list of texts, found one string: put it in a list")
        explained = len(self.targets) if explain else 0
        found = scoring.answer(texts, self.rows, self.bias, self._heads, RANKS, explained, MOST_PHRASES, LONGEST_PHRASE)
        scores, words, known = found.scores
        probabilities = {target.name: found.probabilities[:, target.columns] for target in self.targets}
        top = {target.name: found.top[:, head] for head, target in enumerate(self.targets)}
        familiar = ((known >= self.least_known * words) & (words > 0)).tolist()
        if self.languages is not None:
            first, p = self.languages.first, found.probabilities
            guesses = [(self.languages.labels[code], float(p[i, first + code])) for i, code in enumerate(found.top[:, -1, 0].tolist())]
            # A head that never saw the words may be sure all the same.
            unsure = [i for i, (_, sure) in enumerate(guesses) if sure < SURE_OF_LANGUAGE or not familiar[i]]
        else:
            # One language only: what speaks for it is that its words are known.
            guesses = [(self.only_language or language.UNKNOWN, share) for share in (known / np.maximum(words, 1)).tolist()]
            low = [i for i, (_, share) in enumerate(guesses) if share < SURE_OF_LANGUAGE]
            unsure = [i for i in low if len(texts[i]) >= SHORT or guesses[i][1] < SURE_OF_LANGUAGE / 2]
        spoken = [(code, round(sure, 4)) for code, sure in guesses]
        for i, code in enumerate(told or []):
            if code:
                spoken[i] = code, 1.0
        for i in unsure:
            if not (told and told[i]):
                spoken[i] = _language(texts[i], guesses[i][0])
        pulled: list[list[list[list[float]]]] = [[] for _ in texts]
        if explain:
            pulled = [
                [phrases[:n] for phrases, n in zip(by_target, counts, strict=True)]
                for by_target, counts in zip(found.phrases.tolist(), found.found.tolist(), strict=True)
            ]
        fast = Answers("fast", [self.targets] * len(texts), probabilities, top, pulled, spoken, familiar, [False] * len(texts), scores)
        if self.deep is None:
            return fast
        if embeddings is None:
            return fast._replace(doubtful=self._doubtful(texts, fast, self.deep))
        return self._deepened(texts, fast, self.deep, embeddings)

    @cached_property
    def learned(self) -> frozenset[str]:
        """The languages that training saw."""
        if self.languages is not None:
            return frozenset(self.languages.labels)
        return frozenset([self.only_language] if self.only_language else [])

    def _doubtful(self, texts: list[str], fast: Answers, deep: Deep) -> list[bool]:
        doubtful = [not known or code not in self.learned for known, (code, _) in zip(fast.familiar, fast.languages, strict=True)]
        for name, least in deep.ask.items():
            surest = fast.probabilities[name].max(axis=1).tolist()
            doubtful = [doubt or sure < least for doubt, sure in zip(doubtful, surest, strict=True)]
        return [doubt and bool(text) for doubt, text in zip(doubtful, texts, strict=True)]  # of no text nobody knows more

    def _deepened(self, texts: list[str], fast: Answers, deep: Deep, embeddings: NDArray[np.float32]) -> Answers:
        """The fast path's answers with the deep path's labels in place of its own, and what the words say for those."""
        scores, nearest = deep.machine.scores(embeddings)
        abroad = np.array([code not in self.learned for code, _ in fast.languages], bool)
        both = fast.scores[:, : scores.shape[1]] + scores * deep.shares
        probabilities, top = {}, {}
        for mixed, alone in zip(deep.mixed, deep.alone, strict=True):
            p = np.where(abroad[:, None], alone.probabilities(scores), mixed.probabilities(both)).astype(np.float32)
            order = np.argsort(-p, axis=1, kind="stable")[:, :RANKS].astype(np.int32)
            probabilities[mixed.name] = p
            top[mixed.name] = np.pad(order, ((0, 0), (0, RANKS - order.shape[1])), constant_values=-1)
        phrases = []
        for i, by_target in enumerate(fast.phrases):
            columns = [target.first + int(top[target.name][i, 0]) for target in self.targets[: len(by_target)]]
            found = scoring.phrases(texts[i], self.rows, columns, LONGEST_PHRASE) if columns else []
            phrases.append([[list(phrase) for phrase in pulled[:MOST_PHRASES]] for pulled in found])
        return fast._replace(
            path="deep",
            phrases=phrases,
            targets=[deep.alone if away else deep.mixed for away in abroad],
            probabilities=probabilities,
            top=top,
            # Words that nobody knows, in a language that is said to be known, are no language: an encoder finds something in any letters.
            familiar=((nearest >= deep.scope) & (np.array(fast.familiar, bool) | abroad)).tolist(),
        )

    def explain(self, text: str, columns: list[int]) -> list[list[Phrase]]:
        """For each of `columns` (a label's: ``target.first + label``) all the phrases of a cleaned text that pulled towards it
        (weight above 0) or away from it, strongest first. The weights of a column add up to its score less its bias."""
        found = scoring.phrases(text, self.rows, columns, LONGEST_PHRASE)
        return [[Phrase(text[start:end], weight, start, end) for start, end, weight in phrases] for phrases in found]

    @cached_property
    def _heads(self) -> scoring.Heads:
        """All heads as the compiled loops want them."""
        heads = [*self.targets, *([self.languages] if self.languages else [])]
        return scoring.Heads(
            np.array([*(head.first for head in heads), len(self.bias)], np.int32),
            np.array([head.sharpness for head in heads], np.float32),
            np.array([offset for head in heads for offset in head.offsets], np.float32),
        )


def _language(text: str, guess: str) -> tuple[str, float]:
    """The language of a text that the router is not sure of: its guess where no other is written like that, else what langdetect says."""
    if not text:
        return language.UNKNOWN, 0.0
    code, sure = (guess, 1.0) if language.alone_in_its_script(text, guess) else language.detect(text)
    return code, round(sure, 4)
