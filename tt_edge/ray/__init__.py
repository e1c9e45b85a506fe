"""Ray: the server on Ray Serve, and evaluations and builds on a cluster. Needs ``pip install "tt-edge[ray]"``; torch-free."""
