"""What the vision network of each vision-language family works with: quantization, fewer image tokens, and the attention plugin.

    python benchmarks/tower_options.py [--only gemma3 mllama …] [--json FILE] [--table FILE]

Each family is made tiny with random weights, compiled in fp16 with one option at a time, and compared by what `tt-edge verify
--model` runs: the tower's features, logits and greedy tokens, beside transformers' model quantized or pruned in the same way.
`evaluated` says that they match, `refused` is the error of the compile, and `failed` any other end. The heads of tiny models are
narrower than the plugin's, so that its check of their size is off. Each family runs in a process of its own. With `--json`, results
that are already in FILE are kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.coverage import one_line

#: Settings of ``CompileConfig.of`` by the options that say the same.
OPTIONS: dict[str, dict[str, Any]] = {
    "--quant-vision fp8": {"quant": {"format": None, "vision": "fp8"}},
    "--quant-vision int8_sq": {"quant": {"format": None, "vision": "int8_sq"}},
    "--keep-image-tokens 0.5": {"keep_image_tokens": 0.5},
    "--vision-attention plugin": {"vision_attention": "plugin"},
}
#: Model types that are found, beside those of which the tests have a checkpoint.
FOUND = (
    "aya_vision", "deepseek_vl", "fast_vlm", "gemma4", "glm4v", "got_ocr2", "granite4_vision", "mistral3", "mllama", "ovis2",
    "paddleocr_vl", "perception_lm",
)  # fmt: skip
_LIMITS = {"max_input_len": 448, "max_seq_len": 512, "max_image_tokens": 384}
#: Of a family whose prompts may be no longer than a sliding window.
LIMITS = {"paligemma2": {"max_input_len": 160, "max_seq_len": 160, "max_image_tokens": 64}}
#: Seconds that one family may take.
LIMIT_S = 600


def families() -> list[str]:
    from tests.models.vlm_checkpoints import FOUND_TOKENS, TOKENS

    return [*TOKENS, *FOUND_TOKENS, *FOUND]


def outcomes(name: str) -> dict[str, tuple[str, str]]:
    """The word and the reason of each option."""
    import torch

    from tests.models.any_vlm import write_any
    from tests.models.vlm_checkpoints import FOUND_TOKENS, TOKENS, write_checkpoint

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        (write_checkpoint if name in {*TOKENS, *FOUND_TOKENS} else write_any)(name, checkpoint)
        tiny_heads = patch("tt_edge.lowering.plugin.insert_vit_attention_plugin.HEAD_SIZES", range(1, 257))
        with tiny_heads:
            return {
                option: _outcome(name, checkpoint, Path(scratch) / f"{number}.ttedge", settings)
                for number, (option, settings) in enumerate(OPTIONS.items())
            }


def _outcome(name: str, checkpoint: Path, bundle: Path, settings: dict[str, Any]) -> tuple[str, str]:
    from tt_edge.bundle import Bundle
    from tt_edge.compile.parity import verify_bundle
    from tt_edge.compile.pipeline import compile_checkpoint
    from tt_edge.compile.quantize import CalibrationData
    from tt_edge.config import CompileConfig, EngineTarget
    from tt_edge.config.quantization import QuantConfig
    from tt_edge.errors import TTEdgeError

    given = {**settings, "quant": QuantConfig(**settings["quant"])} if "quant" in settings else settings
    try:
        config = CompileConfig.of(precision="fp16", max_batch=2, **LIMITS.get(name, _LIMITS), **given)
        calibration = CalibrationData(samples=4, max_length=32, device="cpu")
        compile_checkpoint(str(checkpoint), bundle, config, EngineTarget(), calibration=calibration)
    except TTEdgeError as error:
        return "refused", one_line(error).replace(str(checkpoint), "X")
    except Exception as error:
        return "failed", one_line(error)
    try:
        report = verify_bundle(Bundle.open(bundle), checkpoint, new_tokens=4)
    except Exception as error:
        return "failed", one_line(error)
    return ("evaluated", "") if report.passed else ("failed", one_line(ValueError(report.render().splitlines()[-1])))


def table(results: dict[str, dict[str, tuple[str, str]]]) -> str:
    """Families by options, in Markdown, and the reasons of what is refused or failed below."""
    lines = [f"| family | {' | '.join(f'`{option}`' for option in OPTIONS)} |", "|---|" + "---|" * len(OPTIONS)]
    notes: list[str] = []
    for name, found in sorted(results.items()):
        cells = []
        for option in OPTIONS:
            word, reason = found[option]
            reason = re.sub(r"\w+For(ConditionalGeneration|CausalLM)", "the model", reason)
            if reason and reason not in notes:
                notes.append(reason)
            cells.append(f"{word} ({notes.index(reason) + 1})" if reason else word)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    escaped = (note.replace("|", "\\|").replace("<", "&lt;") for note in notes)
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(escaped, 1))]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="these only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here, and go on from there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table in Markdown here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("RESULT " + json.dumps(outcomes(args.child)))
        return 0
    results: dict[str, dict[str, tuple[str, str]]] = {}
    if args.json and args.json.is_file():
        results = json.loads(args.json.read_text())
    for name in families():
        if (args.only and name not in args.only) or (not args.only and name in results):
            continue
        command = [sys.executable, __file__, "--child", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        results[name] = dict.fromkeys(OPTIONS, ("failed", last[:300])) if line is None else json.loads(line[7:])
        print(name, *(": ".join((option, *result)) for option, result in results[name].items()), sep="\n  ", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.table:
        args.table.write_text(table(results))
    return int(any(word == "failed" for found in results.values() for word, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
