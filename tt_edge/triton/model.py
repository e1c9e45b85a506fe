"""What Triton's Python backend runs: requests of all clients share the batch of one ``AsyncLLM``."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # of Triton's own process

from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.async_llm import AsyncLLM
from tt_edge.runtime.llm import LLM


class TritonPythonModel:
    """A decoupled model: ``execute`` returns at once, and answers are sent as they come."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that ``config.pbtxt`` names."""
        given = {name: entry["string_value"] for name, entry in json.loads(args["model_config"])["parameters"].items()}
        self._llm = AsyncLLM(LLM.load(given["bundle"], given["runtime"]), int(given["max_waiting"]))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tt-edge-triton", daemon=True)
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Start to answer ``requests``. Their inputs are read here: afterwards Triton uses the memory again."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = _Asked.of(request, self._llm.llm.generation_defaults)
            except TTEdgeError as error:
                _send(sender, error=str(error), final=True)
            else:
                asyncio.run_coroutine_threadsafe(self._answer(asked, sender), self._loop)

    def finalize(self) -> None:
        """End all requests and close the model."""
        self._llm.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, asked: _Asked, sender: Any) -> None:
        try:
            await self._send_answer(asked, sender)
        except TTEdgeError as error:
            _send(sender, error=str(error), final=True)
        except Exception as error:  # a defect: the client must not wait for ever
            triton.Logger.log_error(f"tt-edge: {type(error).__name__}: {error}")
            _send(sender, error=f"internal error ({type(error).__name__}: {error}); please report it", final=True)

    async def _send_answer(self, asked: _Asked, sender: Any) -> None:
        if asked.echoes and self._llm.llm.source is not None:
            raise InvalidInputError(
                "exclude_input_in_output is false, and an encoder-decoder's answer does not continue its input; omit it"
            )
        begin = asked.text if asked.echoes else ""
        async with self._llm.stream(await self._llm.encode(asked.text), asked.config) as stream:
            if not asked.streams:
                completion = await stream.completion()
                return _send(sender, begin + completion.text, final=True)
            if begin:
                _send(sender, begin)
            async for delta in stream:
                if sender.is_cancelled():
                    break
                if delta.text:
                    _send(sender, delta.text)
            return _send(sender, "", final=True)


@dataclass(frozen=True)
class _Asked:
    """The inputs of a request."""

    text: str
    config: GenerationConfig
    streams: bool
    echoes: bool

    @classmethod
    def of(cls, request: Any, defaults: GenerationConfig) -> _Asked:
        """Raises ``InvalidInputError`` for inputs that are missing or wrong."""
        text = _string(request, "text_input")
        if text is None:
            raise InvalidInputError("text_input is missing; give the prompt")
        config = _config(defaults, _string(request, "sampling_parameters"))
        return cls(text, config, _flag(request, "stream", False), not _flag(request, "exclude_input_in_output", True))


def _config(defaults: GenerationConfig, parameters: str | None) -> GenerationConfig:
    """``defaults`` with a JSON object of fields of ``GenerationConfig``; ``max_tokens`` is vLLM's name of ``max_new_tokens``."""
    try:
        given = json.loads(parameters) if parameters else {}
    except ValueError as error:
        raise InvalidInputError(f"sampling_parameters is not JSON ({error}); give an object") from None
    if not isinstance(given, dict):
        raise InvalidInputError(f"sampling_parameters is a {type(given).__name__}; give a JSON object")
    if "max_tokens" in given:
        given["max_new_tokens"] = given.pop("max_tokens")
    return GenerationConfig.from_dict({**defaults.to_dict(), **given})


def _string(request: Any, name: str) -> str | None:
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    try:
        return bytes(values[0]).decode()
    except (IndexError, UnicodeDecodeError):
        raise InvalidInputError(f"{name} is not one text in UTF-8; send one") from None


def _flag(request: Any, name: str, default: bool) -> bool:
    tensor = triton.get_input_tensor_by_name(request, name)
    return default if tensor is None else bool(tensor.as_numpy().reshape(-1)[0])


def _send(sender: Any, text: str | None = None, *, error: str | None = None, final: bool = False) -> None:
    import numpy as np

    outputs = [] if text is None else [triton.Tensor("text_output", np.array([text.encode()], np.object_))]
    failure = None if error is None else triton.TritonError(error)
    response = triton.InferenceResponse(output_tensors=outputs, error=failure)
    sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)
