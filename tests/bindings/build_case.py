"""Networks that were captured elsewhere, built for sm120 by the TensorRT-RTX of this process.

``python -m tests.bindings.build_case CASE…`` prints the version, and a line for each case: its form, and the engine's bytes.
"""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

from tests.bindings.replay_case import Case
from tt_edge import tensorrt_api
from tt_edge.network.build_legal import build_legal


def main() -> None:
    """Build every case."""
    tensorrt = tensorrt_api.load(tensorrt_api.Flavour.RTX)
    print(tensorrt.version)
    for file in sys.argv[1:]:
        case: Case = pickle.loads(Path(file).read_bytes())
        made = build_legal(tensorrt, case.network, case.contract, lambda own: own.profiles(), "sm120", io.BytesIO())
        print(f"{case.name}: {made.form}: {made.build.bytes}")


if __name__ == "__main__":
    main()
