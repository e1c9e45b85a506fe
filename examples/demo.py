"""The main job on a checkpoint of half a megabyte: make it, compile it, check it, run it without PyTorch, look inside.

    python examples/demo.py [--keep FOLDER]

Everything it does is a command that you can type; each is shown before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PROMPTS = ("The light ahead is red", "A pedestrian waits")


def show(*command: str, folder: Path) -> None:
    """Print a command, run it in ``folder``, and stop when it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = [str(Path(sys.executable).with_name(command[0]))] if command[0] == "tt-edge" else [sys.executable]
    done = subprocess.run([*program, *command[1:]], cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(f"demo.py: the command above failed with exit status {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="FOLDER", help="work here and keep the files; default: a temporary folder")
    args = parser.parse_args()
    maker = str(Path(__file__).with_name("tiny_checkpoint.py").absolute())
    with tempfile.TemporaryDirectory(prefix="tt-edge-demo-") as scratch:
        folder = Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
        print("A Qwen2 of 0.4 M parameters learns six sentences, and is saved as a Hugging Face checkpoint:")
        show("python", maker, "tiny", folder=folder)
        print("\nCompile it, with an engine for Ada GPUs, which need not be here:")
        show("tt-edge", "compile", "tiny", "-o", "tiny.ttedge", "--engine", "sm89", "--max-batch", "2", "--overwrite",
             folder=folder)  # fmt: skip
        print("\nDoes the TensorRT network compute what Hugging Face computes?")
        show("tt-edge", "verify", "tiny.ttedge", "--model", "tiny", folder=folder)
        print("\nGenerate, without PyTorch (with TensorRT where an engine fits the GPU, or else in NumPy):")
        show("tt-edge", "run", "tiny.ttedge", *prompts, "--max-new-tokens", "32", folder=folder)
        print("\nWhat is in the bundle:")
        show("tt-edge", "inspect", "tiny.ttedge", folder=folder)


if __name__ == "__main__":
    main()
