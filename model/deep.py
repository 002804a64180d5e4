"""The deep path: what a sentence encoder sees in a ticket, beside its words.

A ticket's embedding is compared with those of training tickets (its *anchors*) by a Gaussian kernel; each label's score is a
weighted sum of these similarities, learned by regularised least squares (Rifkin and Klautau, "In defense of one-vs-all classification",
2004). That score and the fast path's are added and calibrated together. For a language that training did not see, the words say nothing
and the embedding decides alone.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder, fits, open_encoder
from model.errors import EncoderError

if TYPE_CHECKING:  # it holds a Deep itself
    from model.router import Target

Rows = NDArray[np.float32]


class KernelMachine(NamedTuple):
    """`mean` (dimensions,) is taken from an embedding; `anchors` (anchors, dimensions) have had it taken; `weights` (anchors, columns) of the
    labels of all targets; `width` of the kernel."""

    mean: Rows
    anchors: Rows
    weights: Rows
    width: float

    def scores(self, embeddings: Rows) -> tuple[Rows, Rows]:
        """Each label's score, (texts, columns), and the similarity to the nearest anchor, (texts,), between 0 and 1."""
        similar = kernel(embeddings - self.mean, self.anchors, self.width)
        return similar @ self.weights, similar.max(axis=1, initial=0.0)


@dataclass(frozen=True)
class Deep:
    """What the deep path learned.

    `encoder`: the name of the encoder that its embeddings come from, and `probe` (dimensions,), the embedding by which another one under
    the same name is noticed (`require_same`). `machine` scores embeddings. `mixed`: the targets as calibrated on both paths' scores, where
    the deep score counts `shares` (columns,) times; `alone`: on the deep score alone, for languages that were left out. `scope`: the similarity to the nearest anchor under which a text is none of the router's business. `ask`: for each
    target the fast path's confidence under which the deep path is asked.
    """

    encoder: str
    probe: Rows
    machine: KernelMachine
    shares: Rows
    mixed: tuple["Target", ...]
    alone: tuple["Target", ...]
    scope: float
    ask: dict[str, float]


def open_for(deep: Deep, seconds: float) -> Encoder:
    """The encoder that `deep` was learned with. Raises EncoderError where it cannot be opened or is another one now."""
    encoder = open_encoder(deep.encoder, seconds)
    require_same(encoder, deep)
    return encoder


def require_same(encoder: Encoder, deep: Deep) -> None:
    """Raises EncoderError where `encoder` is not the one that `deep` was learned with."""
    if not fits(encoder, deep.probe):
        raise EncoderError(f"{deep.encoder}: gives other rows than when the router was trained; train again, or bring back the old one")


def kernel(left: Rows, right: Rows, width: float) -> Rows:
    """``exp(-width * squared distance)`` of each row of `left` (n, dimensions) and each of `right` (m, dimensions): (n, m)."""
    squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * (left @ right.T)
    return np.asarray(np.exp(-width * np.maximum(squared, 0, out=squared)), np.float32)
