"""Files of a checkpoint on the Hugging Face hub: downloaded, or found in the cache (offline, only there)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tt_edge.compile.checkpoint.json_files import read_object
from tt_edge.errors import InvalidInputError

#: Everything but weights and code. The weights' indexes are among the JSON files.
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]

_Result = TypeVar("_Result")


def fetch_small_files(hub_id: str) -> Path:
    """The folder of the id's snapshot, with its configuration and tokenizer.

    Raises ``InvalidInputError`` if the hub has no such id or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    return Path(_fetched(hub_id, lambda: snapshot_download(hub_id, allow_patterns=_SMALL_FILES)))


def fetch_weights(hub_id: str, snapshot: Path) -> None:
    """Download the weights that transformers would load into ``snapshot``: safetensors if there are any, else ``.bin``."""
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> None:
        snapshot_download(hub_id, revision=snapshot.name, allow_patterns=list(patterns))

    def fetch_all() -> None:
        fetch("model.safetensors")
        if (snapshot / "model.safetensors").is_file():
            return
        for kind in ("model.safetensors", "pytorch_model.bin"):
            if (snapshot / f"{kind}.index.json").is_file():
                fetch(*shard_names(snapshot / f"{kind}.index.json"))
                return
        fetch("*.safetensors")  # AutoGPTQ uses other names
        if not any(snapshot.glob("*.safetensors")):
            fetch("pytorch_model.bin")

    _fetched(hub_id, fetch_all)


def fetch_matching(hub_id: str, snapshot: Path, *patterns: str) -> None:
    """Download the files whose names match one of ``patterns`` into ``snapshot``."""
    from huggingface_hub import snapshot_download

    _fetched(hub_id, lambda: snapshot_download(hub_id, revision=snapshot.name, allow_patterns=list(patterns)))


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index of shards lists. Raises ``InvalidInputError`` where it is damaged."""
    try:
        names = sorted(set(read_object(index)["weight_map"].values()))
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"{name!r} is not a file name")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidInputError(f"{index} is damaged ({error}); download the checkpoint again") from error
    return names


def _fetched(hub_id: str, fetch: Callable[[], _Result]) -> _Result:
    try:
        return fetch()
    except (OSError, ValueError) as error:  # the hub's own errors are such
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInputError(
            f"checkpoint {hub_id} does not load: {why.rstrip('.')}; check the id, the network, and `hf auth login` for a gated one"
        ) from error
