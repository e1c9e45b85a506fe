"""The bundle: one directory that holds everything a target needs. Torch-free."""
