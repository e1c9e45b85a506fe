"""The ``tt-edge`` command: a dispatcher. Each subcommand is a module that imports what it needs when it runs."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import tt_edge
from tt_edge.cli.terminal import safe
from tt_edge.errors import MissingDependencyError, TTEdgeError

#: Subcommands, each a module of this package, with the line that `tt-edge --help` shows.
COMMANDS = {
    "compile": "compile a Hugging Face checkpoint to a bundle",
    "build": "build engines for a bundle with the TensorRT that is here",
    "sign": "sign a bundle, so that machines can refuse all others",
    "verify": "check a bundle's integrity, and its numbers against the checkpoint",
    "eval": "count right answers, of several bundles side by side",
    "run": "generate text with a bundle, without PyTorch",
    "chat": "talk with a bundle in the terminal",
    "serve": "serve a bundle over HTTP with OpenAI's endpoints",
    "triton": "write a model repository for Triton Inference Server",
    "bench": "measure the speed of a bundle, or of any server with OpenAI's endpoints",
    "inspect": "show what is in a bundle",
    "report": "write what is known of a bundle as a page with plots, or its network as a graph",
    "diff": "show what differs between two bundles",
    "profile": "predict a bundle's speed on named devices, or time its layers here",
    "plugin": "build tt-edge's CUDA kernels, or look at a plugin library",
    "doctor": "look at this machine, and at what a bundle needs of it",
}

# Packages of the host side: what to install when one is missing.
_HOST_PACKAGES = ("torch", "torch_tensorrt", "transformers", "safetensors", "accelerate")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Subcommand modules import only argparse at their top."""
    parser = argparse.ArgumentParser(
        prog="tt-edge", description="Compile Hugging Face LLMs for NVIDIA edge devices and run them without PyTorch."
    )
    parser.add_argument("--version", action="version", version=f"tt-edge {tt_edge.__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks, and TensorRT's warnings")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, line in COMMANDS.items():
        module = importlib.import_module(f"tt_edge.cli.{name}")
        sub = commands.add_parser(name, help=line, description=module.__doc__, parents=[shared])
        module.configure_parser(sub)
        sub.set_defaults(run=module.run)
    return parser


class _Terminated(KeyboardInterrupt):
    """SIGTERM came, as from ``timeout``, systemd or a CI job that was stopped."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that it leaves nothing half-written behind; a second one ends it at once."""

    def on_terminate(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # a program that calls this has its own handler
        return
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    # At its end, Python collects cycles among all objects, which takes 1.2 s with PyTorch's. None of them has anything to finish.
    atexit.register(gc.freeze)
    args = build_parser().parse_args(argv)
    if args.debug:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        with _terminable():
            status: int = args.run(args)
        sys.stdout.flush()
        return status
    except TTEdgeError as error:
        return _fail(error, args.debug)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _HOST_PACKAGES:
            raise
        missing = MissingDependencyError(
            f'{error.name} is not installed, which `tt-edge {args.command}` needs; pip install "tt-edge[compile,rtx]"'
        )
        return _fail(missing, args.debug)
    except _Terminated:
        print("tt-edge: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("tt-edge: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`). Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if args.debug:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"tt-edge: error: {error.strerror or error}{where}; free space or check permissions", file=sys.stderr)
        return 1


def _fail(error: TTEdgeError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(safe(f"tt-edge: error: {error}", sys.stderr), file=sys.stderr)
    return error.exit_code
