"""The models that bundles are compared with: loaded as transformers loads them, or dequantized from the files of a checkpoint."""
