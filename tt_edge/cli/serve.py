"""Serve a bundle over HTTP with OpenAI's endpoints (chat completions, completions, models; streamed or whole), a chat page
at /, /health, and /metrics for Prometheus. Needs no PyTorch."""

from __future__ import annotations

import argparse
import gc
import sys
from contextlib import suppress
from pathlib import Path

from tt_edge.cli.options import add_image_cache, add_require_signature, add_runtime, image_cache_bytes, runtime_of

#: Addresses that only this machine reaches.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Seconds that a thread which computes in Python keeps the event loop waiting, each time that the loop has something to do.
_SWITCH_S = 0.0005


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: only this machine)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port (default 8000; 0: any that is free)")
    add_runtime(parser)
    parser.add_argument("--served-model-name", metavar="NAME", help="default: the bundle's name without .ttedge")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file with the keys of the clients, one per line; each client must send one (or set TT_EDGE_API_KEY for one key); "
        "with several keys, clients do not share KV cache contents",
    )
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without a key")
    parser.add_argument(
        "--max-waiting", type=int, default=64, metavar="N", help="requests that may wait; more get 429 (default 64)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds that an answer may take (default 600)"
    )
    parser.add_argument(
        "--max-body-mb",
        type=int,
        metavar="N",
        help="maximum size of a request in MiB (default 1; 32 if the model takes images, which come as data: URLs, or speech)",
    )
    parser.add_argument(
        "--max-connections-per-address",
        type=int,
        metavar="N",
        help="connections that one address may have; this machine's own are not counted (default: --max-waiting plus 32)",
    )
    parser.add_argument(
        "--exact-images",
        action="store_true",
        help="refuse images that would have to be scaled to fit the compiled model",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="compute this system prompt once, for chats that begin with it"
    )
    parser.add_argument(
        "--prefix-cache",
        type=Path,
        metavar="FILE",
        help="keep the keys and values of --system there for the next start",
    )
    add_image_cache(parser)
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from tt_edge.cli.prefixes import precompute
    from tt_edge.errors import InvalidInputError, MissingDependencyError
    from tt_edge.runtime.async_llm import AsyncLLM
    from tt_edge.runtime.llm import LLM

    try:
        import uvicorn

        from tt_edge.server import Settings, create_app
        from tt_edge.server.access.connections import ConnectionLimits, limited
        from tt_edge.server.access.keys import KEY_VARIABLE, api_keys
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f'{error.name} is not installed, which `tt-edge serve` needs; pip install "tt-edge[serve]"'
        ) from None
    keys = api_keys(args.api_key_file)
    if args.host not in _LOOPBACK and not keys and not args.insecure:
        raise InvalidInputError(
            f"--host {args.host} without a key lets the whole network in; set {KEY_VARIABLE} or --api-key-file, or add --insecure"
        )
    if args.max_waiting < 0 or not args.timeout > 0 or not 0 <= args.port < 65536:
        raise InvalidInputError(
            f"--max-waiting {args.max_waiting}, --timeout {args.timeout} or --port {args.port} is out of range; "
            "give 0 or more, above 0, and 0 to 65535"
        )
    if args.max_body_mb is not None and args.max_body_mb < 1:
        raise InvalidInputError(f"--max-body-mb is {args.max_body_mb}; give at least 1")
    per_address = args.max_connections_per_address
    if per_address is not None and per_address < 1:
        raise InvalidInputError(f"--max-connections-per-address is {per_address}; give at least 1")
    places = args.max_waiting + 32
    limits = ConnectionLimits(per_address or places, 4 * max(places, per_address or 0))
    hosts = {*_LOOPBACK, "[::1]"} if args.host in _LOOPBACK else None
    max_body = None if args.max_body_mb is None else args.max_body_mb << 20
    settings = Settings(api_keys=keys, timeout_s=args.timeout, hosts=hosts, max_body=max_body)
    cache = image_cache_bytes(args)
    with LLM.load(args.bundle, runtime_of(args), args.require_signature, image_cache_bytes=cache) as llm:
        llm.name = args.served_model_name or llm.name
        if args.exact_images and llm.vision is not None:
            llm.vision = llm.vision.with_exact_images()
        precompute(llm, args.system, args.prefix_cache)
        config = uvicorn.Config(
            create_app(AsyncLLM(llm, args.max_waiting), settings),
            host=args.host,
            port=args.port,
            log_level="warning",
            http=limited(limits),
            loop="asyncio",  # what its figures were measured with, whatever else is installed
            ws="none",
            timeout_graceful_shutdown=5,
        )
        try:
            socket = config.bind_socket()
            socket.listen(config.backlog)  # only now is the port ours, and the address below true
        except (SystemExit, OSError):  # the first is uvicorn's answer; it has logged the reason
            raise InvalidInputError(
                f"cannot listen at {args.host}:{args.port}; choose another --port, or stop what listens there"
            ) from None
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(
            f"{llm.name}: {llm.session.word}\nhttp://{host}:{socket.getsockname()[1]}/ is a chat page, …/v1 is OpenAI's API; "
            "Ctrl-C stops",
            file=sys.stderr,
            flush=True,
        )
        with suppress(KeyboardInterrupt):  # raised again by uvicorn when it has shut down
            sys.setswitchinterval(_SWITCH_S)
            gc.collect()
            gc.freeze()  # a collection of what was imported and loaded would stop every thread for 0.1 s
            uvicorn.Server(config).run(sockets=[socket])
    return 0
