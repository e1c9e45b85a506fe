"""An HTTP server with OpenAI's endpoints. Needs ``pip install "tt-edge[serve]"``; torch-free."""

from tt_edge.server.app import Settings, create_app

__all__ = ["Settings", "create_app"]
