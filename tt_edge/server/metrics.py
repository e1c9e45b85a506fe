"""What ``/metrics`` shows, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tt_edge
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.multimodal.feature_cache import CacheStats
from tt_edge.runtime.text.completion import Completion

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Counted:
    """An ASGI middleware that counts responses."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"] if scope["path"] in self._paths else "other"  # no label for what anybody may send

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.response(path, message["status"])
            await send(message)

        return await self._app(scope, receive, counting)


class _Model(Collector):
    """Read from the model when asked."""

    def __init__(self, model: AsyncLLM) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        model, stats = self._model, self._model.stats
        yield GaugeMetricFamily("tt_edge_requests_running", "Requests that have a slot.", model.running)
        yield GaugeMetricFamily("tt_edge_requests_waiting", "Requests that wait for a slot.", model.waiting)
        yield CounterMetricFamily("tt_edge_steps", "Runs of the network.", stats.steps)
        yield CounterMetricFamily(
            "tt_edge_computed_tokens",
            "Tokens that runs of the network computed, padding included.",
            stats.computed_tokens,
        )
        yield GaugeMetricFamily(
            "tt_edge_prefill_tokens",
            "Most tokens of a prompt in one run while other slots decode.",
            model.llm.scheduler.prefill_tokens,
        )
        yield CounterMetricFamily("tt_edge_prompt_tokens", "Tokens of prompts.", stats.prompt_tokens)
        yield CounterMetricFamily(
            "tt_edge_prompt_tokens_reused", "Tokens of prompts that were in the KV cache.", stats.reused_tokens
        )
        yield CounterMetricFamily("tt_edge_generated_tokens", "Generated tokens.", stats.new_tokens)
        if model.llm.vision is not None:
            yield from _image_cache(model.llm.vision.encoder.cache.stats)
        values = {"version": tt_edge.__version__, "model": model.llm.name, "session": model.llm.session.word}
        yield InfoMetricFamily("tt_edge", "What is served, and how.", values)


def _image_cache(stats: CacheStats) -> Iterator[Metric]:
    counts = {
        "hits": ("Images whose features were in the image cache.", stats.hits),
        "misses": ("Images whose features were not in the image cache.", stats.misses),
        "evictions": ("Images that left the image cache to make room.", stats.evictions),
    }
    for name, (text, count) in counts.items():
        yield CounterMetricFamily(f"tt_edge_image_cache_{name}", text, count)
    yield GaugeMetricFamily("tt_edge_image_cache_images", "Images whose features are in the image cache.", stats.images)
    yield GaugeMetricFamily("tt_edge_image_cache_bytes", "Bytes of features in the image cache.", stats.nbytes)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, model: AsyncLLM) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Model(model))
        self._responses = Counter(
            "tt_edge_http_responses", "Responses by path and status.", ("path", "status"), registry=self.registry
        )
        self._ttft = self._seconds("ttft", "From a request to its first token.")
        self._encode = self._seconds("encode", "For the images of a request, waiting for others' included.")
        self._images = Counter(
            "tt_edge_images", "Images of requests, encoded or found in the image cache.", registry=self.registry
        )
        self._tpot = self._seconds("tpot", "For each token after the first.")
        self._e2e = self._seconds("e2e", "From a request to its last token.")

    def response(self, path: str, status: int) -> None:
        self._responses.labels(path, status).inc()

    def images(self, count: int, seconds: float) -> None:
        self._images.inc(count)
        self._encode.observe(seconds)

    def completion(self, completion: Completion) -> None:
        timing = completion.timing
        if timing.new_tokens:
            self._ttft.observe(timing.ttft_s)
            self._e2e.observe(timing.ttft_s + timing.decode_s)
        if timing.new_tokens > 1:
            self._tpot.observe(timing.tpot_s)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(f"tt_edge_{name}_seconds", text, buckets=_SECONDS, registry=self.registry)
