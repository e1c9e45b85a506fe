"""Pictures of prompts: preprocessed, encoded by the vision network, and put where the language network looks for them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.images import ImageProcessor, ProcessedImage, image_processor_for, load_image, read_settings
from tt_edge.runtime.images.mrope import mrope_positions
from tt_edge.runtime.prompt_images import ImageKeys, PromptImages
from tt_edge.runtime.tokenizer import BundleTokenizer, read_json
from tt_edge.runtime.vision_inputs import vision_feeds

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.vision_session import VisionSession

#: A path, a ``data:image/…;base64,`` URL, a file's content, or pixels ``[H, W, 3]`` uint8.
ImageFile: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video, already chosen, ``fps`` of them a second. 2 is what the Qwen-VL models are trained at."""

    frames: Sequence[ImageFile]
    fps: float = 2.0


ImageSource: TypeAlias = ImageFile | Video

_Features = dict[str, np.ndarray]


class VisionEncoder:
    """A vision network with the preprocessing of its checkpoint. Features of the last images are kept in host memory.

    ``token_ids`` are the tokens that stand for a row of features, of images and of videos; ``axes`` is 3 for M-RoPE.
    """

    def __init__(
        self,
        session: VisionSession,
        processor: ImageProcessor,
        token_ids: Sequence[int],
        axes: int,
        max_bytes: int = 256 << 20,
    ) -> None:
        self.session, self.processor, self.token_ids = session, processor, tuple(token_ids)
        self._axes, self._max_bytes = axes, max_bytes
        self._keys = ImageKeys()
        self._kept: OrderedDict[str, _Features] = OrderedDict()

    @classmethod
    def from_bundle(cls, bundle: Bundle, session: VisionSession, tokenizer: BundleTokenizer) -> VisionEncoder:
        """Raises ``BundleError`` for a bundle without the settings that preprocessing needs."""
        model = read_json(bundle, "config.json")
        named = {
            "image": model.get("image_token_id", model.get("image_token_index")),
            "video": model.get("video_token_id"),
        }
        ids = {kind: index for kind, index in named.items() if isinstance(index, int)}
        tokens = {kind: tokenizer.backend.id_to_token(ids[kind]) if kind in ids else None for kind in named}
        settings = read_settings(bundle, model, session.contract.geometry, tokens)
        return cls(session, image_processor_for(settings), list(ids.values()), bundle.manifest.contract.position_axes)

    def tokenize(
        self, tokenizer: BundleTokenizer, prompt: str, sources: Sequence[ImageSource], *, add_special_tokens: bool
    ) -> tuple[list[int], list[ProcessedImage]]:
        """Token ids of ``prompt``, its placeholders as long as the images are; and the images, preprocessed, in their order.

        Raises ``InvalidInputError`` for images that cannot be read, and for another number of placeholders.
        """
        processed = [self.process(source) for source in sources]
        text, leading, ordered = self.processor.placeholders.expand(prompt, processed)
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [self.token_ids[0]] * leading + ids, ordered

    def process(self, source: ImageSource) -> ProcessedImage:
        """Read and preprocess an image or a video. Raises ``InvalidInputError`` for one that cannot be read."""
        if not isinstance(source, Video):
            return self.processor.process(source if isinstance(source, np.ndarray) else load_image(source))
        take = getattr(self.processor, "process_video", None)
        if take is None:
            raise UnsupportedModelError("this model takes no videos; give its frames as images")
        frames = [frame if isinstance(frame, np.ndarray) else load_image(frame) for frame in source.frames]
        processed: ProcessedImage = take(frames, source.fps)
        return processed

    def prompt_images(self, token_ids: Sequence[int], images: Sequence[ProcessedImage]) -> PromptImages:
        """What ``images`` mean for the tokens of their prompt; encodes those that have not been lately."""
        ids = np.asarray(token_ids)
        is_image = np.isin(ids, self.token_ids)
        count = sum(image.tokens for image in images)
        if int(is_image.sum()) != count:
            raise BundleError(
                f"the prompt has {int(is_image.sum())} image tokens for images of {count}; its tokenizer and preprocessing differ"
            )
        keys: list[int] = ids.tolist()
        image_keys = [key for image in images for key in self._keys.keys(image.digest, image.tokens)]
        for place, key in zip(np.flatnonzero(is_image).tolist(), image_keys, strict=True):
            keys[place] = key
        indices = np.full(len(ids), -1, np.int32)
        indices[is_image] = np.arange(count)
        positions, delta = None, 0
        if self._axes > 1:
            spans = [span for image in images for span in image.spans]
            positions, delta = mrope_positions(is_image, spans, self.session.contract.geometry.merge_size)
        return PromptImages(indices, keys, self.encode(images), positions, delta)

    def encode(self, images: Sequence[ProcessedImage]) -> _Features:
        """Features ``[tokens, hidden]`` by the names of the language network's tables. One call for all that are new."""
        fresh = list({i.digest: i for i in images if i.digest not in self._kept}.values())
        found = {image.digest: self._kept[image.digest] for image in images if image.digest in self._kept}
        if fresh:
            feeds, rows = vision_feeds(self.session.contract, fresh)
            out, first = self.session.run(feeds), 0
            for image in fresh:
                own = rows[first : first + image.tokens]
                found[image.digest] = {name: array[own] for name, array in out.items()}
                first += image.tokens
        for digest, features in found.items():
            self._kept[digest] = features
            self._kept.move_to_end(digest)
        while len(self._kept) > 1 and sum(a.nbytes for f in self._kept.values() for a in f.values()) > self._max_bytes:
            self._kept.popitem(last=False)
        names = [spec.name for spec in self.session.contract.outputs]
        return {name: np.concatenate([found[image.digest][name] for image in images]) for name in names}

    def forget(self) -> None:
        """Drop all features that are kept."""
        self._kept.clear()

    def close(self) -> None:
        self.session.close()


def images_of(messages: Sequence[Any]) -> list[ImageSource]:
    """The images and videos of a conversation, in order.

    Parts ``{"type": "image", "image": …}``, OpenAI's ``image_url``, and ``{"type": "video", "video": [frame, …], "fps": 2}``.
    Raises ``InvalidInputError`` for a video that is not a list of frames.
    """
    found: list[ImageSource] = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "image":
                found.append(part.get("image", part.get("path", part.get("url", ""))))
            elif kind == "image_url":
                url = part.get("image_url")
                found.append(url.get("url", "") if isinstance(url, dict) else str(url))
            elif kind == "video":
                frames = part.get("video")
                if not isinstance(frames, list | tuple):
                    raise InvalidInputError(
                        f"video {frames!r} is no list; video files are not read, give a list of frames"
                    )
                found.append(Video(tuple(frames), float(part.get("sample_fps", part.get("fps", Video.fps)))))
    return found
