"""FX passes, one per file, and the pipelines that order them for each backend. Needs torch."""
