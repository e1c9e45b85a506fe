"""VILA as NVIDIA's code defines it, written a second time from transformers' models and Pillow; and tiny checkpoints. Needs torch.

Nothing of tt-edge is used here.
"""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIDE, WIDE, HIDDEN = 56, 32, 64
_TEXT = {"hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
#: ChatML, which takes texts only.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Linear layers, norms, and their places in ``nn.Sequential``.
LAYERS = {
    "mlp_downsample": (2, {1: 4 * WIDE, 2: (4 * WIDE, HIDDEN), 4: (HIDDEN, HIDDEN)}),
    "mlp_downsample_2x2_fix": (2, {1: 4 * WIDE, 2: (4 * WIDE, HIDDEN), 4: (HIDDEN, HIDDEN)}),
    "mlp_downsample_3x3_fix": (
        3,
        {1: 9 * WIDE, 2: (9 * WIDE, 3 * WIDE), 4: 3 * WIDE, 5: (3 * WIDE, HIDDEN), 7: (HIDDEN, HIDDEN)},
    ),
}


def make_tokenizer(*, begins: bool):
    """Bytes and ChatML's tokens, of which none is an image's; with ``begins`` a text begins with ``<s>``, as Llama's."""
    names = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[:5]])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


def write_vila(folder: Path, language="qwen2", projector="mlp_downsample_3x3_fix", vocabulary=300, **settings) -> Path:
    """A checkpoint as ``Efficient-Large-Model`` publishes them, with random weights."""
    generator = torch.Generator().manual_seed(0)
    make, config = (Qwen2ForCausalLM, Qwen2Config) if language == "qwen2" else (LlamaForCausalLM, LlamaConfig)
    tower = SiglipVisionConfig(
        hidden_size=WIDE,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=7,
    )
    parts = {
        "llm": make(config(**_TEXT, vocab_size=vocabulary, tie_word_embeddings=False)),
        "vision_tower": SiglipVisionModel(tower),
    }
    for name, model in parts.items():
        drawn(model, generator).save_pretrained(folder / name)
    make_tokenizer(begins=language == "llama").save_pretrained(folder / "llm")
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "vision_tower")
    (folder / "mm_projector").mkdir()
    projecting = {
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "mm_projector_type": projector,
    }
    (folder / "mm_projector" / "config.json").write_text(json.dumps(projecting))
    save_file(
        drawn(Projector(projector), generator).state_dict(),
        folder / "mm_projector" / "model.safetensors",
        {"format": "pt"},
    )
    own = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaModel"],
        "image_aspect_ratio": "dynamic",
        "min_tiles": 1,
        "max_tiles": 3,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch",
        "image_encoder": '{"_target_": "llava.model.encoders.BasicImageEncoder"}',
        **{f"{part}_cfg": {"model_type": part} for part in ("llm", "vision_tower", "mm_projector")},
        **settings,
    }
    (folder / "config.json").write_text(json.dumps(own))
    return folder


def drawn(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(one + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


class Projector(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.side, layers = LAYERS[kind]
        made = {at: nn.LayerNorm(size) if isinstance(size, int) else nn.Linear(*size) for at, size in layers.items()}
        self.layers = nn.Sequential(nn.Identity(), *(made.get(at, nn.GELU()) for at in range(1, max(layers) + 1)))

    def forward(self, states):
        """Blocks of ``side`` by ``side`` patches, row by row, with zeros to the right and below."""
        edge, side = round(states.shape[1] ** 0.5), self.side
        grid = states.reshape(states.shape[0], edge, edge, -1)
        grid = functional.pad(grid, (0, 0, 0, -edge % side, 0, -edge % side))
        own = [grid[:, row::side, column::side] for row in range(side) for column in range(side)]
        return self.layers(torch.cat(own, dim=-1).flatten(1, 2))


class Vila:
    """``generate`` for a prompt with ``<image>`` in the places of ``images``, as ``LlavaMetaForCausalLM`` does it."""

    def __init__(self, folder: Path) -> None:
        self.settings = json.loads((folder / "config.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
        self.tokenizer.add_tokens(["<vila/sentinel>"], special_tokens=True)
        for token in ("<image>", "<vila/video>"):
            self.tokenizer.add_tokens([token], special_tokens=True)
        self.image = self.tokenizer.convert_tokens_to_ids("<image>")
        self.video = self.tokenizer.convert_tokens_to_ids("<vila/video>")
        self.llm = AutoModelForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32).eval()
        self.llm.resize_token_embeddings(len(self.tokenizer))
        self.tower = SiglipVisionModel.from_pretrained(folder / "vision_tower", dtype=torch.float32).eval()
        self.processor = SiglipImageProcessorPil.from_pretrained(folder / "vision_tower")
        self.projector = Projector(
            json.loads((folder / "mm_projector" / "config.json").read_text())["mm_projector_type"]
        )
        self.projector.load_state_dict(load_file(folder / "mm_projector" / "model.safetensors"))
        self.projector.eval()

    def prepare(self, prompt, images):
        """Token ids with one ``<image>`` a tile, and pixels ``[tiles, 3, H, W]``."""
        images = [Image.fromarray(image) for image in images]
        if len(images) == 1 and self.settings["image_aspect_ratio"] == "dynamic":
            tiles = self.tiles(images[0])
            prompt = prompt.replace("<image>", "<image>\n" * len(tiles))
        else:
            resized = self.settings["image_aspect_ratio"] == "resize"
            tiles = [image.resize((SIDE, SIDE)) if resized else image for image in images]
        pixels = [self.processor.preprocess(tile, return_tensors="pt")["pixel_values"][0] for tile in tiles]
        return self.tokenizer(prompt).input_ids, torch.stack(pixels) if pixels else None

    def film(self, path):
        """``num_video_frames`` frames from the first to the last, uint8 ``[H, W, 3]``."""
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        places = np.round(np.linspace(0, len(frames) - 1, self.settings.get("num_video_frames", 8))).astype(int)
        return [frames[place] for place in places]

    def tiles(self, image):
        least, most = self.settings["min_tiles"], self.settings["max_tiles"]
        ratios = {
            (i, j)
            for n in range(least, most + 1)
            for i in range(1, n + 1)
            for j in range(1, n + 1)
            if least <= i * j <= most
        }
        best, nearest = (1, 1), float("inf")
        for columns, rows in sorted(ratios, key=lambda pair: pair[0] * pair[1]):
            apart = abs(image.width / image.height - columns / rows)
            if apart < nearest:
                best, nearest = (columns, rows), apart
            elif apart == nearest and image.width * image.height > 0.5 * SIDE**2 * columns * rows:
                best = (columns, rows)
        columns, rows = best
        large = image.resize((SIDE * columns, SIDE * rows))
        corners = [(SIDE * column, SIDE * row) for row in range(rows) for column in range(columns)]
        tiles = [large.crop((left, top, left + SIDE, top + SIDE)) for left, top in corners]
        return tiles if len(tiles) == 1 else [*tiles, image.resize((SIDE, SIDE))]

    def features(self, pixels):
        """``[tiles, tokens, hidden]``, and behind each the embeddings of a line break as the tokenizer makes it."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states[self.settings["mm_vision_select_layer"]]
        ends = self.llm.get_input_embeddings()(torch.tensor(self.tokenizer("\n").input_ids))
        return torch.stack([torch.cat([tile, ends]) for tile in self.projector(states)])

    @torch.no_grad()
    def answer(self, ids, pixels, new):
        """A video's token stands for all ``pixels``, one frame after the other."""
        features = [] if pixels is None else list(self.features(pixels))
        features = [torch.cat(features)] if self.video in ids else features
        embeddings = self.llm.get_input_embeddings()
        placed = (self.image, self.video)
        parts = [features.pop(0) if each in placed else embeddings(torch.tensor([each])) for each in ids]
        embeds = torch.cat(parts)[None]
        ones = torch.ones(embeds.shape[:2], dtype=torch.int64)
        found = self.llm.generate(
            inputs_embeds=embeds,
            attention_mask=ones,
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return found[0].tolist()
