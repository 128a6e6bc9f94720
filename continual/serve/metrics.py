"""Numbers for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """What a server counts; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = all_ = CollectorRegistry()
        by_model = ("model",)
        self.requests = Counter("continual_requests", "Requests for answers.", ("model", "status"), registry=all_)
        self.prompt_tokens = Counter("continual_prompt_tokens", "Tokens of prompts.", by_model, registry=all_)
        self.generated_tokens = Counter("continual_generated_tokens", "Tokens written.", by_model, registry=all_)
        self.first_token = Histogram(
            "continual_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            by_model,
            buckets=SECONDS,
            registry=all_,
        )
        self.queue = Gauge("continual_queue_length", "Answers that wait for a place in the batch.", registry=all_)
        self.rows = Gauge("continual_rows", "Answers being written now.", registry=all_)
        self.batch = Histogram("continual_batch_rows", "Rows in each decoding step.", buckets=ROWS, registry=all_)

    def step(self, rows: int, waiting: int) -> None:
        """After a decoding step."""
        self.rows.set(rows)
        self.queue.set(waiting)
        if rows:
            self.batch.observe(rows)

    def at_rest(self) -> None:
        """Nothing is to be done."""
        self.rows.set(0)
        self.queue.set(0)

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
