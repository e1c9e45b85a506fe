"""The whole workflow in Python: checkpoint, bundle, verification, generation without PyTorch.

    python examples/end_to_end_llm_generation_example.py [CHECKPOINT] [--prompt "…"]

Without a checkpoint, a small one is made and trained first, in a few seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # to find examples.tiny_checkpoint when run as a script

from examples.tiny_checkpoint import make_checkpoint
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="folder or hub id")
    parser.add_argument("--prompt", action="append", help="may be given several times")
    parser.add_argument("--engine", default="none", help="sm89,sm120, local or none (default)")
    args = parser.parse_args(argv)
    prompts = args.prompt or ["The road is clear", "An ambulance comes"]

    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        checkpoint = args.checkpoint or str(Path(scratch) / "tiny")
        if not args.checkpoint:
            make_checkpoint(Path(checkpoint))
        bundle = Path(scratch) / "model.ttedge"

        # 1. Compile. Needs PyTorch, transformers and torch_tensorrt, and no GPU.
        config = CompileConfig.of(max_batch=len(prompts), max_input_len=256, max_seq_len=512)
        report = compile_checkpoint(checkpoint, bundle, config, EngineTarget.parse(args.engine))
        print(report.render())

        # 2. Verify. Compare the network that TensorRT builds from with generate().
        parity = verify_bundle(Bundle.open(bundle), checkpoint, new_tokens=16)
        print(parity.render())
        if not parity.passed:
            raise SystemExit(1)

        # 3. Generate. Needs neither PyTorch nor transformers; text is streamed.
        with LLM.load(bundle) as llm:
            pieces: dict[int, str] = {}

            def on_text(row: int, text: str) -> None:
                pieces[row] = pieces.get(row, "") + text

            completions = llm.generate(prompts, GenerationConfig(max_new_tokens=32), on_text)
            for row, completion in enumerate(completions):
                assert pieces.get(row, "") == completion.text
                print(f"{completion.prompt}|{completion.text}")
            print(f"({llm.session.word})")


if __name__ == "__main__":
    main()
