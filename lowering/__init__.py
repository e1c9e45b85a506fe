"""FX passes, one to a file, and the pipelines that put them in order for each backend. Needs torch."""
