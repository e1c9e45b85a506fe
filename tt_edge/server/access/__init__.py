"""Who may connect and ask: connections, keys, and the middleware before everything else."""
