"""Evaluations with known answers: MMLU, MMMU, GSM8K, perplexity, and questions of your own, of a bundle and of PyTorch.

Torch-free, except that ``lm_eval`` is for EleutherAI's harness, which needs PyTorch.
"""
