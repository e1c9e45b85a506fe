"""Sign a bundle with an Ed25519 key, so that machines that require your signature refuse all others. The signature is of
manifest.json, which has the SHA-256 of every other file; building an engine into the bundle afterwards invalidates it."""

from __future__ import annotations

import argparse

_PASSPHRASE = "TT_EDGE_KEY_PASSPHRASE"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", nargs="?", help="a bundle written by tt-edge compile")
    parser.add_argument(
        "--key",
        metavar="PEM",
        help=f"private key; its passphrase, if it has one, is in the environment variable {_PASSPHRASE}",
    )
    parser.add_argument(
        "--new-key",
        metavar="NAME",
        help=f"make NAME.private.pem and NAME.public.pem first; encrypted where {_PASSPHRASE} is set",
    )


def run(args: argparse.Namespace) -> int:
    """Make a key, sign, or both."""
    import os
    from pathlib import Path

    from tt_edge.bundle import Bundle
    from tt_edge.bundle.keys import new_key
    from tt_edge.bundle.signing import sign
    from tt_edge.errors import InvalidInputError

    if (args.key is None) == (args.new_key is None):
        raise InvalidInputError("give --key PEM to sign with, or --new-key NAME to make a key")
    if args.key is not None and args.bundle is None:
        raise InvalidInputError("--key signs a bundle; name the bundle")
    passphrase = os.environ.get(_PASSPHRASE, "").encode() or None
    if args.bundle is not None:
        Bundle.open(args.bundle)  # a bad one is seen before a key is made
    key = args.key
    if args.new_key is not None:
        key, public = new_key(args.new_key, passphrase)
        print(f"{key}: keep it secret\n{public}: for --require-signature on the machines that run your bundles")
    if args.bundle is not None:
        sign(Path(args.bundle), Path(key), passphrase)
        print(f"{args.bundle}: signed with {key}")
    return 0
