"""The main workflow on a checkpoint of 4 MB: compile it, verify it, run it without PyTorch, inspect it.

    python examples/demo.py [--keep FOLDER]

The checkpoint is a Qwen2 that answers questions about driving scenes, trained by examples/driving_qa. Every step is a
command that you can type; each is shown before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKPOINT = Path(__file__).with_name("driving_qa") / "checkpoint"
PROMPTS = (
    "The light ahead is red. A pedestrian waits on the left. What should the car do?",
    "There are two blue cars ahead. A truck is behind. How many vehicles are there?",
    "What is 17 plus 25?",
)


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
    checkpoint = str(CHECKPOINT.absolute())
    with tempfile.TemporaryDirectory(prefix="tt-edge-demo-") as scratch:
        folder = Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
        print("Compile a Qwen2 of 1.9 M parameters, with an engine for Ada GPUs, which need not be here:")
        show("tt-edge", "compile", checkpoint, "-o", "driving.ttedge", "--engine", "sm89", "--max-batch", "4", "--overwrite",
             folder=folder)  # fmt: skip
        print("\nDoes the TensorRT network compute what Hugging Face computes?")
        show("tt-edge", "verify", "driving.ttedge", "--model", checkpoint, folder=folder)
        print("\nAsk it, without PyTorch (with TensorRT where an engine fits the GPU, or else in NumPy):")
        show("tt-edge", "run", "driving.ttedge", "--chat", *prompts, folder=folder)
        print("\nWhat is in the bundle:")
        show("tt-edge", "inspect", "driving.ttedge", folder=folder)
        print(
            "\nNext: tt-edge chat driving.ttedge, or tt-edge serve driving.ttedge and a browser (--keep FOLDER keeps it)"
        )


if __name__ == "__main__":
    main()
