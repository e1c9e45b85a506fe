"""What a release replays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tt_edge.network.ir import Network


@dataclass
class Case:
    """A captured network, its contract, and whether it is run too: then it gives the tokens of the reference."""

    name: str
    network: Network
    contract: Any
    runs: bool = False
