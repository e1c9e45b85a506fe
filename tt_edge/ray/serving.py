"""The HTTP server as an application of Ray Serve: replicas, each with its own copy of the model.

    serve run tt_edge.ray.serving:application bundle=/models/qwen.ttedge replicas=2

Ray Serve's own settings (autoscaling, GPUs, addresses) are in its configuration file; see ``examples/ray_serve.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.applications import Starlette

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.llm import LLM
from tt_edge.server import Settings, create_app
from tt_edge.server.access.keys import api_keys

#: Requests beyond those that wait or run, so that the server itself answers 429 and not Ray Serve 503.
_SPARE_REQUESTS = 1024
_BY_SESSION = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class Arguments(BaseModel):
    """What ``application`` takes: paths as the replicas' machines have them; the rest is as of ``tt-edge serve``."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    runtime: str = "auto"
    served_model_name: str | None = None
    replicas: int = Field(1, ge=1)
    #: Of each replica.
    gpus: float = Field(0, ge=0)
    #: Requests with the same header ``x-session-id`` go to the same replica, whose KV cache has the conversation so far.
    session_affinity: bool = False
    max_waiting: int = Field(64, ge=0)
    timeout_s: float = Field(600, gt=0)
    api_key_file: Path | None = None
    require_signature: str | None = None


def application(given: Mapping[str, Any]) -> serve.Application:
    """One deployment, ``Server``, that answers at all routes of ``tt_edge.server``.

    ``given`` are ``Arguments``, as texts where they come from ``serve run``. Raises ``InvalidInputError`` for what is wrong.
    """
    try:
        arguments = Arguments.model_validate(given)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        raise InvalidInputError(
            f"{name} is {wrong['input']!r}: {wrong['msg']}; the arguments are {', '.join(Arguments.model_fields)}"
        ) from None
    server: Any = Server  # which the decorators make a deployment
    deployment = server.options(
        num_replicas=arguments.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": arguments.gpus},
        max_ongoing_requests=arguments.max_waiting + _SPARE_REQUESTS,
        graceful_shutdown_timeout_s=arguments.timeout_s,
        request_router_config=RequestRouterConfig(request_router_class=_BY_SESSION)
        if arguments.session_affinity
        else RequestRouterConfig(),
    )
    return deployment.bind(arguments)


@serve.deployment
@serve.ingress()
class Server:
    """A replica: opens the bundle once, when it starts, and closes it when its last request is answered."""

    def __init__(self, arguments: Arguments) -> None:
        llm = LLM.load(arguments.bundle, arguments.runtime, arguments.require_signature)
        llm.name = arguments.served_model_name or llm.name
        self._model = AsyncLLM(llm, arguments.max_waiting)
        self._settings = Settings(api_keys=api_keys(arguments.api_key_file), timeout_s=arguments.timeout_s)

    def __serve_build_asgi_app__(self) -> Starlette:
        return create_app(self._model, self._settings)

    def check_health(self) -> None:
        """Ray Serve asks every few seconds, and replaces a replica that raises."""
        if not self._model.is_alive:
            raise EngineError("the model no longer answers")
