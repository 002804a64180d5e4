"""What the service counts, for Prometheus at `/metrics`. Each is documented in the README.

With several workers each writes what it counts to a file in `PROMETHEUS_MULTIPROC_DIR`, and whichever is asked adds them up.
"""

import math
import os
from collections import Counter as Counted
from collections.abc import Iterable, Mapping
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import generate_latest

from model.decision import Decision

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
EVENTS = ("assigned", "moved", "kind_corrected", "answered", "closed")
DRIFTING = ("language", "kind", "department", "confidence", "unfamiliar", "review", "overridden")  # as `service.reports.schemas.Change` says
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # set before a worker starts, by `service.run`


class Metrics:
    """The meters of one application, in a registry of their own: two applications in a process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pointsman_requests_total", "Requests answered, by route, method and status.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "pointsman_request_seconds", "Time from a request's head to the end of its answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("pointsman_in_flight", "Requests at work.", registry=registry, multiprocess_mode="livesum")
        stages = Histogram(
            "pointsman_stage_seconds",
            "Time of a stage: clean and classify the tickets that came together, deep path waited for, queue until they are stored, write one "
            "transaction.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.clean_seconds, self.classify_seconds = stages.labels("clean"), stages.labels("classify")
        self.deep_seconds = stages.labels("deep")
        self.queue_seconds, self.write_seconds = stages.labels("queue"), stages.labels("write")
        self.written_together = Histogram(
            "pointsman_written_together", "Decisions stored by one commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), registry=registry
        )
        self.decisions = Counter(
            "pointsman_decisions_total",
            "Decisions stored, by action, path, language and model version.",
            ["action", "path", "language", "model_version"],
            registry=registry,
        )
        deep = Counter(
            "pointsman_deep_total",
            "Doubtful tickets, by what became of them with the deep path: answered, late, full (no place), failed, resting (left alone).",
            ["outcome"],
            registry=registry,
        )
        self._deep = {outcome: deep.labels(outcome) for outcome in ("answered", "late", "full", "failed", "resting")}
        self.labels = Counter("pointsman_labels_total", "Labels decided, by target.", ["target", "label"], registry=registry)
        self.confidence = Histogram(
            "pointsman_confidence", "Confidence of the label decided, by target.", ["target"],
            buckets=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99), registry=registry,
        )  # fmt: skip
        self.refused = Counter("pointsman_refused_total", "Requests refused, by error code.", ["code"], registry=registry)
        self.reloads = Counter(
            "pointsman_reloads_total", "New champions met, by what became of them: taken, refused.", ["outcome"], registry=registry
        )
        for outcome in ("taken", "refused"):
            self.reloads.labels(outcome)  # from 0, so that the first is an increase
        self.model = Gauge(
            "pointsman_model_info", "1 for the model version that serves.", ["version"], registry=registry, multiprocess_mode="livemax"
        )
        self.ready = Gauge("pointsman_ready", "1 while decisions can be made and stored.", registry=registry, multiprocess_mode="livemin")

        outcomes = Counter("pointsman_outcomes_total", "Outcomes stored that were new, by event.", ["event"], registry=registry)
        self._outcomes = {event: outcomes.labels(event) for event in EVENTS}
        # Every worker that looks finds the same: the last word is the one that counts.
        drift = Gauge(
            "pointsman_drift", "Changes beyond chance in the last complete week, by what changed.", ["what"],
            registry=registry, multiprocess_mode="mostrecent",
        )  # fmt: skip
        self._drift = {what: drift.labels(what) for what in DRIFTING}
        self._misrouted = Gauge(
            "pointsman_misrouted_share", "Share of the judged tickets of the last complete week that were misrouted, by target; nan without any.",
            ["target"], registry=registry, multiprocess_mode="mostrecent",
        )  # fmt: skip

        # Finding a meter by its labels costs more than counting with it. Bounded: labels are of our own making, but for the
        # language, which a client may tell.
        self._request = lru_cache(256)(lambda *labels: (self.requests.labels(*labels), self.request_seconds.labels(labels[0])))
        self._decision = lru_cache(1024)(self.decisions.labels)
        self._label = lru_cache(1024)(lambda target, label: (self.labels.labels(target, label), self.confidence.labels(target)))

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Enter one answered request."""
        count, timer = self._request(route, method, str(status))
        count.inc()
        timer.observe(seconds)

    def count_decisions(self, decided: Iterable[Decision]) -> None:
        """Enter decisions: action, path, language, version, labels and confidences."""
        for decision in decided:
            self._decision(decision["action"], decision["path"], decision["language"]["code"], decision["model_version"]).inc()
            for target, answer in decision["labels"].items():
                count, confidence = self._label(target, answer["label"])
                count.inc()
                confidence.observe(answer["confidence"])

    def count_deep(self, outcome: str, tickets: int) -> None:
        """Enter what became of doubtful tickets."""
        if tickets:
            self._deep[outcome].inc(tickets)

    def count_outcomes(self, events: Iterable[str]) -> None:
        """Enter new outcomes, by their event."""
        for event in events:
            self._outcomes[event].inc()

    def show_week(self, changes: Iterable[str], misrouted: Mapping[str, float | None]) -> None:
        """Enter the last complete week: what of it changed beyond chance, once for each change, and the share misrouted by target."""
        changed = Counted(changes)
        for what, gauge in self._drift.items():
            gauge.set(changed[what])
        for target, share in misrouted.items():
            self._misrouted.labels(target).set(math.nan if share is None else share)

    def exposition(self) -> bytes:
        """All meters, of all workers, in the text format of Prometheus."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
