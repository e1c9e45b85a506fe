"""The golden set: what PyTorch answered on the host, small enough to travel in the bundle. Torch-free.

A safetensors file, ``golden.safetensors``. The tensor ``about`` is JSON; the others are named by prompt or image:

| tensor | type and shape | what |
|---|---|---|
| ``prompt.<i>.ids`` | int64 [n] | token ids, image tokens included |
| ``prompt.<i>.tokens`` | int64 [T] | greedy tokens of ``generate()`` |
| ``prompt.<i>.top_ids`` | int32 [T, K] | the K = 64 largest logits of each step, by the model in fp32 |
| ``prompt.<i>.top_logits`` | float32 [T, K] | their values |
| ``prompt.<i>.own_logits`` | float32 [T, K] | the same logits by PyTorch in the bundle's precision |
| ``prompt.<i>.rest`` | float32 [T, 32] | sketch of the other logits of the model in fp32 (``sketch.py``) |
| ``prompt.<i>.norms`` | float32 [T] | length of the whole row of logits |
| ``image.<j>.pixels`` | uint8 [H, W, 3] | an image as it was before preprocessing |
| ``image.<j>.<table>.features`` | float32 [tokens, 32] | sketch of the vision network's features, by the tower in fp32 |
| ``image.<j>.<table>.norms`` | float32 [tokens] | their lengths |
| ``source.<k>.input.<name>`` | int64 [T] or int8 | an encoder's input: token ids, or numbers times 32 |
| ``source.<k>.features`` | float32 [places, 32] | sketch of all layers' keys and values of the source, by the model in fp32 |
| ``source.<k>.norms`` | float32 [places] | their lengths |

``about`` has the version, the precision, the tolerances of logits and features, the images and the source of each prompt, and the
batches that the prompts were compared in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge import strict_json
from tt_edge.errors import BundleError
from tt_edge.proof.sketch import COLUMNS, sketch, squared_length, without_never

GOLDEN_FILE = "golden.safetensors"
VERSION = 2
#: A golden set is no larger than this; images that would make it so are left out, with their prompts.
MAX_BYTES = 16 << 20
#: Numbers of a source are multiples of one part in so many.
_GRID = 32
#: Logits of a step that are kept as they are.
TOP = 64


@dataclass(frozen=True, eq=False)
class GoldenPrompt:
    """One prompt and its answer; arrays as in the module's table. ``images`` are numbers of the set's images,
    ``source`` is that of the source of an encoder-decoder, whose ``ids`` are what the answer begins with."""

    ids: NDArray[np.int64]
    tokens: NDArray[np.int64]
    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    own_logits: NDArray[np.float32]
    rest: NDArray[np.float32]
    norms: NDArray[np.float32]
    images: tuple[int, ...] = ()
    source: int | None = None

    @classmethod
    def of(
        cls,
        ids: Sequence[int],
        tokens: Sequence[int],
        own: np.ndarray,
        exact: np.ndarray,
        images: Sequence[int] = (),
        source: int | None = None,
    ) -> GoldenPrompt:
        """From the logits ``[T, V]`` that chose ``tokens``: PyTorch's ``own``, and ``exact`` ones of the model in fp32."""
        top = np.argsort(-exact, axis=-1, kind="stable")[:, : min(TOP, exact.shape[1])]
        own, exact = without_never(own), without_never(exact)
        return cls(
            ids=np.asarray(ids, np.int64),
            tokens=np.asarray(tokens, np.int64),
            top_ids=top.astype(np.int32),
            top_logits=np.take_along_axis(exact, top, -1).astype(np.float32),
            own_logits=np.take_along_axis(own, top, -1).astype(np.float32),
            rest=rest_of(exact, top),
            norms=np.linalg.norm(exact.astype(np.float64), axis=-1).astype(np.float32),
            images=tuple(images),
            source=source,
        )


def rest_of(logits: np.ndarray, top_ids: np.ndarray) -> NDArray[np.float32]:
    """The sketch of all logits ``[T, V]`` but those of ``top_ids`` ``[T, K]``."""
    others = np.array(logits, np.float32)
    np.put_along_axis(others, top_ids.astype(np.int64), 0, -1)
    return sketch(others)


@dataclass(frozen=True, eq=False)
class GoldenFeatures:
    """One table of features of one image: sketches float32 ``[tokens, 32]`` and lengths float32 ``[tokens]``."""

    features: NDArray[np.float32]
    norms: NDArray[np.float32]

    @classmethod
    def of(cls, exact: np.ndarray) -> GoldenFeatures:
        """From features ``[tokens, hidden]`` of the tower in fp32."""
        return cls(sketch(exact), np.linalg.norm(exact.astype(np.float64), axis=-1).astype(np.float32))

    def error_of(self, features: np.ndarray) -> float:
        """Relative L2 error of other ``features`` ``[tokens, hidden]``; infinite for another number of tokens."""
        if features.shape[0] != len(self.norms):
            return float("inf")
        squares = squared_length(sketch(features) - self.features).sum()
        return float(np.sqrt(squares) / np.linalg.norm(self.norms.astype(np.float64)))


@dataclass(frozen=True, eq=False)
class GoldenImage:
    """An image, uint8 ``[H, W, 3]``, and its features by the names of the tables."""

    pixels: NDArray[np.uint8]
    tables: Mapping[str, GoldenFeatures] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GoldenSource:
    """A source, without a batch, by the names of the encoder's inputs, and the sketch of its keys and values.

    Inputs are token ids, or float32 that ``on_grid`` made.
    """

    inputs: Mapping[str, np.ndarray]
    cross: GoldenFeatures


def on_grid(numbers: np.ndarray) -> NDArray[np.float32]:
    """``numbers`` rounded to multiples of 1/32 below 4: a byte each in the file, and exact in every type."""
    rounded: NDArray[np.float32] = (np.clip(np.rint(numbers * _GRID), -127, 127) / _GRID).astype(np.float32)
    return rounded


@dataclass(frozen=True, eq=False)
class GoldenSet:
    """What a bundle is to compute. ``tolerance`` bounds the relative L2 error of a prompt's logits, ``feature_tolerance`` that
    of the features of an image or a source: measured on the host as a multiple of PyTorch's own error. ``batches`` are numbers of
    prompts."""

    precision: str
    tolerance: float
    prompts: tuple[GoldenPrompt, ...]
    batches: tuple[tuple[int, ...], ...]
    images: tuple[GoldenImage, ...] = ()
    feature_tolerance: float = 0.0
    sources: tuple[GoldenSource, ...] = ()

    def tensors(self) -> dict[str, np.ndarray]:
        """What is written, by name."""
        about = {
            "version": VERSION,
            "precision": self.precision,
            "tolerance": self.tolerance,
            "feature_tolerance": self.feature_tolerance,
            "images": [list(prompt.images) for prompt in self.prompts],
            "sources": [prompt.source for prompt in self.prompts],
            "batches": [list(batch) for batch in self.batches],
        }
        found: dict[str, np.ndarray] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for number, prompt in enumerate(self.prompts):
            found |= {f"prompt.{number}.{name}": getattr(prompt, name) for name in _PROMPT}
        for number, image in enumerate(self.images):
            found[f"image.{number}.pixels"] = image.pixels
            for table, features in image.tables.items():
                found[f"image.{number}.{table}.features"] = features.features
                found[f"image.{number}.{table}.norms"] = features.norms
        for number, source in enumerate(self.sources):
            for name, array in source.inputs.items():
                is_ids = array.dtype.kind == "i"
                stored = array.astype(np.int64) if is_ids else np.rint(array * _GRID).astype(np.int8)
                found[f"source.{number}.input.{name}"] = stored
            found[f"source.{number}.features"] = source.cross.features
            found[f"source.{number}.norms"] = source.cross.norms
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(array.nbytes for array in self.tensors().values())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> GoldenSet:
        """Parse what ``tensors`` gave. Raises ``BundleError`` for anything else."""
        try:
            return _parse(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BundleError(
                f"{GOLDEN_FILE} is malformed ({error!r}); run `tt-edge verify --model` on the host again"
            ) from error


#: Type and number of dimensions of a prompt's arrays.
_PROMPT: dict[str, tuple[str, int]] = {
    "ids": ("int64", 1),
    "tokens": ("int64", 1),
    "top_ids": ("int32", 2),
    "top_logits": ("float32", 2),
    "own_logits": ("float32", 2),
    "rest": ("float32", 2),
    "norms": ("float32", 1),
}


def _parse(tensors: Mapping[str, np.ndarray]) -> GoldenSet:
    about: Any = strict_json.loads(tensors["about"].tobytes())
    if type(about["version"]) is not int or about["version"] != VERSION:
        raise ValueError(f"version {about['version']!r}, this tt-edge reads {VERSION}")
    images = tuple(_image(tensors, number) for number in range(_count(tensors, "image", "pixels")))
    sources = tuple(_source(tensors, number) for number in range(_count(tensors, "source", "norms")))
    numbers = [_indices(listed, len(images)) for listed in about["images"]]
    of = [None if source is None else _indices([source], len(sources))[0] for source in about["sources"]]
    prompts = tuple(_prompt(tensors, number, *given) for number, given in enumerate(zip(numbers, of, strict=True)))
    if not prompts or len(prompts) != _count(tensors, "prompt", "ids"):
        raise ValueError(f"{len(prompts)} prompts are listed")
    batches = tuple(_indices(batch, len(prompts)) for batch in about["batches"])
    if not batches or any(len({len(prompts[index].tokens) for index in batch}) != 1 for batch in batches):
        raise ValueError("a batch is empty, or its prompts have not equally many steps")
    return GoldenSet(
        precision=str(about["precision"]),
        tolerance=_number(about["tolerance"]),
        prompts=prompts,
        batches=batches,
        images=images,
        feature_tolerance=_number(about["feature_tolerance"]),
        sources=sources,
    )


def _prompt(
    tensors: Mapping[str, np.ndarray], number: int, images: tuple[int, ...], source: int | None
) -> GoldenPrompt:
    found = {name: _array(tensors[f"prompt.{number}.{name}"], *kind) for name, kind in _PROMPT.items()}
    steps, kept = len(found["tokens"]), found["top_ids"].shape[1]
    shapes = {"top_ids": (steps, kept), "rest": (steps, COLUMNS), "norms": (steps,)}
    shapes |= {"top_logits": (steps, kept), "own_logits": (steps, kept)}
    wrong = [name for name, shape in shapes.items() if found[name].shape != shape]
    if wrong or not steps or not kept or not len(found["ids"]):
        raise ValueError(f"prompt {number}: {', '.join(wrong) or 'something'} has not the shape of {steps} steps")
    if min(found[name].min() for name in ("ids", "tokens", "top_ids")) < 0:
        raise ValueError(f"prompt {number} has a negative token id")
    return GoldenPrompt(**found, images=images, source=source)


def _image(tensors: Mapping[str, np.ndarray], number: int) -> GoldenImage:
    prefix = f"image.{number}."
    pixels = _array(tensors[f"{prefix}pixels"], "uint8", 3)
    if pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"image {number} has the shape {pixels.shape}")
    tables = {}
    for name in tensors:
        if name.startswith(prefix) and name.endswith(".features"):
            table = name.removeprefix(prefix).removesuffix(".features")
            tables[table] = _features(tensors, f"{prefix}{table}")
    return GoldenImage(pixels, tables)


def _features(tensors: Mapping[str, np.ndarray], name: str) -> GoldenFeatures:
    features = _array(tensors[f"{name}.features"], "float32", 2)
    norms = _array(tensors[f"{name}.norms"], "float32", 1)
    if features.shape != (len(norms), COLUMNS):
        raise ValueError(f"{name} has features of the shape {features.shape}")
    return GoldenFeatures(features, norms)


def _source(tensors: Mapping[str, np.ndarray], number: int) -> GoldenSource:
    prefix, inputs = f"source.{number}.input.", {}
    for name in tensors:
        if name.startswith(prefix):
            stored = tensors[name]
            is_ids = stored.dtype.name == "int64"
            array = _array(stored, "int64", 1) if is_ids else _array(stored, "int8", stored.ndim)
            if not array.size or (is_ids and array.min() < 0):
                raise ValueError(f"{name} is empty, or has a negative token id")
            inputs[name.removeprefix(prefix)] = array if is_ids else (array / _GRID).astype(np.float32)
    if not inputs:
        raise ValueError(f"source {number} has no inputs")
    return GoldenSource(inputs, _features(tensors, f"source.{number}"))


def _array(array: np.ndarray, dtype: str, ndim: int) -> Any:
    if array.dtype.name != dtype or array.ndim != ndim:
        raise ValueError(f"an array is {array.dtype} {array.shape}, not {dtype} of {ndim} dimensions")
    return array


def _count(tensors: Mapping[str, np.ndarray], kind: str, name: str) -> int:
    number = 0
    while f"{kind}.{number}.{name}" in tensors:
        number += 1
    return number


def _indices(values: Any, count: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < count for value in values):
        raise ValueError(f"{values!r} are not numbers below {count}")
    return tuple(values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"the tolerance is {value!r}")
    return float(value)
