"""The languages of a training table that does not name them all.

langdetect is slow (1 to 2 ms a text) and unsure of short texts, so it reads a seeded sample only; a language head learned from
the sample's sure answers fills in the rest.
"""

from collections import Counter

import numpy as np

from model.language import detect
from training import solver
from training.features import Features, TermCounts

SAMPLE = 2_000
FIRST = 400  # of the sample, which is all that is read where they show one language and nothing near a second
SURE = 0.9
LEAST_SHARE = 0.02  # of the sample; a language seen less often is a misreading, or too rare to learn


def fill(texts: list[str], known: list[str], counts: TermCounts, seed: int) -> list[str]:
    """A language for each text: the known ones as they are, the missing ("") told from the text.

    Languages that the sample shows in fewer than `LEAST_SHARE` of its texts are taken for misreadings.
    """
    missing = [i for i, code in enumerate(known) if not code]
    if not missing:
        return known
    sample = np.random.default_rng(seed).permutation(missing)[:SAMPLE].tolist()
    told: dict[int, str] = {}
    for first, last in ((0, FIRST), (FIRST, SAMPLE)):
        told |= {i: code for i in sample[first:last] for code, sure in [detect(texts[i])] if sure >= SURE}
        seen, least = Counter(told.values()), LEAST_SHARE * min(last, len(sample))
        if sum(n >= least / 2 for n in seen.values()) == 1:
            break
    common = {code for code, n in seen.items() if n >= max(2, least)}
    told = {i: code for i, code in told.items() if code in common}
    teachers = {i: code for i, code in enumerate(known) if code} | told
    names = sorted(set(teachers.values()))
    if not names:
        return known
    if len(names) == 1:
        return [code or names[0] for code in known]
    which = np.array(sorted(teachers))
    codes = np.array([names.index(teachers[i]) for i in which])
    features = Features(counts)
    matrix = features.fit_transform(which)
    weights, bias = solver.solve(matrix, *solver.one_against_rest([codes], [len(names)], cost=1.0, balance=0.0), seed)
    guesses = (features.transform(np.array(missing)) @ weights + bias).argmax(axis=1)
    filled = list(known)
    for i, guess in zip(missing, guesses, strict=True):
        filled[i] = names[guess]
    return filled
