"""The roofline model beside published and measured speeds: predicted, published, error, and the median error.

    python benchmarks/roofline_validation.py

Published: NVIDIA TensorRT Edge-LLM 0.9 to 0.12, batch 1, prompts of 2,048 tokens, or 2,048 tokens in the cache
(stated for Thor, assumed for the others). Measured: attention
kernels on an H200. A device with several figures has one calibration factor, fitted on one of them; that one is not counted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from tt_edge.roofline import DEVICES, Device, Step, decoder_of_config, predict
from tt_edge.roofline.operations import attention

_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
#: Sizes as in the models' config.json.
MODELS: dict[str, dict[str, object]] = {
    "Qwen3-0.6B": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "Qwen3-1.7B": _QWEN3
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "Qwen3-4B": _QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "Qwen3-8B": _QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
LENGTH = 2048


@dataclass(frozen=True)
class Figure:
    """A published figure: milliseconds of a prefill, or tokens/s of decoding."""

    device: str
    model: str
    format: str
    phase: str
    value: float

    def predicted(self, device: Device) -> float:
        step = Step(1, LENGTH, 0) if self.phase == "prefill" else Step(1, 1, LENGTH)
        found = predict(decoder_of_config(MODELS[self.model], self.format), device, step)
        return found.seconds * 1e3 if self.phase == "prefill" else found.tokens_per_s

    def error(self, device: Device) -> float:
        return self.predicted(device) / self.value - 1


def _figures() -> list[Figure]:
    found = []
    both = {
        "thor": {"0.6B": (20.3, 245.4), "1.7B": (29.9, 135.5), "4B": (64.7, 73.7), "8B": (108.4, 44.4)},
        "spark": {"0.6B": (34.5, 202.6), "1.7B": (60.5, 113.8), "4B": (128.4, 62.6), "8B": (192.4, 37.4)},
    }
    for device, models in both.items():
        for model, values in models.items():
            for phase, value in zip(("prefill", "decode"), values, strict=True):
                found.append(Figure(device, f"Qwen3-{model}", "nvfp4", phase, value))
    for model, value in {"0.6B": 186.4, "1.7B": 98.6, "4B": 53.1, "8B": 32.5}.items():
        found.append(Figure("orin-agx", f"Qwen3-{model}", "int4_awq", "decode", value))
    found.append(Figure("orin-nx", "Qwen3-4B", "int4_awq", "decode", 32.2))
    # Qwen3-VL-2B, whose decoder has the shape of Qwen3-1.7B. The power mode was not published.
    found.append(Figure("orin-nano-super", "Qwen3-1.7B", "int4_awq", "decode", 36.1))
    return found


FIGURES = _figures()

#: Attention of one token on an H200: query heads, heads of keys, their size, batch, cached tokens, measured microseconds.
KERNELS = [
    ("Llama-3-8B", 32, 8, 128, 1, 4096, 12.1),
    ("Llama-3-8B", 32, 8, 128, 1, 32768, 41.3),
    ("Llama-3-8B", 32, 8, 128, 4, 32768, 128.8),
    ("Qwen2.5-0.5B", 14, 2, 64, 1, 4096, 7.2),
    ("Qwen2.5-0.5B", 14, 2, 64, 1, 32768, 12.0),
    ("Qwen2.5-0.5B", 14, 2, 64, 4, 32768, 23.4),
]


def plain(device: str) -> Device:
    """The device without its calibration factor."""
    return replace(DEVICES[device], calibration=1.0)


def fitted(figure: Figure) -> bool:
    """Whether the device's factor was fitted on this figure."""
    return DEVICES[figure.device].fitted_on == f"{figure.model} {figure.format} {figure.phase}"


def median_error(*, calibrated: bool) -> float:
    """Median of the absolute errors; calibrated, without the figures that a factor was fitted on."""
    if not calibrated:
        return statistics.median(abs(figure.error(plain(figure.device))) for figure in FIGURES)
    return statistics.median(abs(f.error(DEVICES[f.device])) for f in FIGURES if not fitted(f))


def kernel_errors() -> list[float]:
    """Errors of the predicted attention kernels."""
    errors = []
    for name, heads, kv_heads, size, batch, cached, measured in KERNELS:
        operation = attention(name, heads, kv_heads, size, 2, 2)
        found = predict([operation], DEVICES["h200"], Step(batch, 1, cached - 1), host_s=0)
        errors.append(found.seconds * 1e6 / measured - 1)
    return errors


def main() -> None:
    head = f"{'device':<16}{'model':<12}{'format':<10}{'phase':<9}{'published':>10}  {'predicted':>9}{'error':>8}"
    print(f"{head}  {'calibrated':>10}{'error':>8}")
    for f in FIGURES:
        raw, own = plain(f.device), DEVICES[f.device]
        last = "  (no factor)" if not own.fitted_on else f"{f.predicted(own):>12.1f}{f.error(own):>+8.1%}"
        print(
            f"{f.device:<16}{f.model:<12}{f.format:<10}{f.phase:<9}{f.value:>10.1f}  {f.predicted(raw):>9.1f}"
            f"{f.error(raw):>+8.1%}{last}{'  fitted' if fitted(f) else ''}"
        )
    tested = [f for f in FIGURES if not fitted(f)]
    print(f"median error {median_error(calibrated=False):.1%} without any factor ({len(FIGURES)} figures)")
    print(
        f"median error {median_error(calibrated=True):.1%} with a factor per device ({len(tested)} figures, not those fitted on)"
    )
    for phase in ("prefill", "decode"):
        errors = [abs(f.error(DEVICES[f.device])) for f in tested if f.phase == phase]
        print(f"  {phase}: median {statistics.median(errors):.1%}, largest {max(errors):.1%}")
    errors = kernel_errors()
    print("attention of one token, H200, predicted and measured (cuDNN):")
    for (name, _, _, _, batch, cached, measured), error in zip(KERNELS, errors, strict=True):
        predicted = measured * (1 + error)
        print(
            f"  {name:<14}batch {batch}, {cached:>6,} tokens  {predicted:>7.1f} us  {measured:>7.1f} us {error:>+7.1%}"
        )
    print(f"  median {statistics.median(abs(error) for error in errors):.1%}")


if __name__ == "__main__":
    main()
