"""A candidate's trial: both bundles decide the same tickets, the gate judges, and the verdict is kept beside the candidate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model import bundle
from model.encoder import Encoder, Rows
from model.policy import Policy
from model.router import Router
from training import compare, experiments, gate
from training.compare import Answered
from training.evaluate import Progress
from training.gate import GateSettings
from training.table import TicketTable


class _Remembering:
    """An encoder that is asked for each text once: both routers doubt much the same tickets, and their rows are nearly all of the time."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, Rows] = {}

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dimensions(self) -> int:
        return self._encoder.dimensions

    def encode(self, texts: list[str]) -> Rows:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self._rows.update(zip(new, self._encoder.encode(new), strict=True))
        return np.array([self._rows[text] for text in texts], np.float32)


class Compared(NamedTuple):
    """A comparison: its figures (`training.compare`), the gate's verdict on them, where both are kept (None where they cannot be), and what
    each decided. `warnings`: what a reader must know."""

    figures: dict[str, Any]
    verdict: dict[str, Any]
    path: Path | None
    champion: Answered
    candidate: Answered
    warnings: list[str]


def hold_against(
    homes: dict[str, Path], table: TicketTable, policy: Policy, open_encoder: Callable[[Router], Encoder | None] = lambda router: None,
    settings: GateSettings | None = None, progress: Progress = lambda stage, done, of: None,
) -> Compared:  # fmt: skip
    """Compare the bundles in `homes` (of `champion` and `candidate`) on `table`, judge, and keep the verdict beside the candidate.

    `open_encoder`: of a router's deep path. Raises BundleError where a bundle does not verify, EncoderError where an encoder fails.
    """
    answered: dict[str, Answered] = {}
    learned, warnings = {}, []
    encoders: dict[str, Encoder] = {}
    for who, home in homes.items():
        router, manifest = bundle.load_with_manifest(home)
        if encoder := open_encoder(router):
            encoder = encoders.setdefault(encoder.name, _Remembering(encoder))
        answered[who] = compare.answer(router, policy, table.texts, encoder, progress)
        learned[who] = experiments.learned(home, manifest, table)
        if learned[who]["tickets"] != 0:
            warnings.append(f"{who}: {learned[who]['said']}")
    figures = compare.measure(table, answered["champion"], answered["candidate"], compare.groups_of(table.texts))
    verdict = gate.judge(figures, settings, learned)
    judged_on = {"tickets": len(table), "digest": experiments.data_digest(table), "learned_from": learned}
    path: Path | None = None
    try:
        path = gate.keep(homes["candidate"].parent, homes, figures, verdict, judged_on)
    except OSError as error:
        warnings.append(f"the verdict is not kept, so that nobody can promote by it: {error.strerror}")
    return Compared(figures, verdict, path, answered["champion"], answered["candidate"], warnings)
