"""An HTTP server with OpenAI's endpoints. Needs ``pip install "tt-edge[serve]"``; torch-free."""

from tt_edge.server.app import create_app
from tt_edge.server.settings import Settings

__all__ = ["Settings", "create_app"]
