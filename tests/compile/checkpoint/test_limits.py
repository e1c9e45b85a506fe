"""How long a sequence may be: as transformers generates with scaled RoPE."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig, Qwen2Config, Qwen2VLConfig

from tt_edge.compile.checkpoint.limits import longest_sequence

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("rope", "limit", "expected"),
    [
        (YARN, 64, 256),  # Qwen's recipe: the limit is left as it was
        (YARN, 256, 256),  # and raised, as most have it
        ({**YARN, "factor": 2.5}, 64, 160),
        ({"rope_type": "default", "rope_theta": 1e4}, 64, 64),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, 64, 64),  # the limit is of the scaled model
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 1e4}, 512, 512),
    ],
)  # fmt: skip
def test_scaled_rope(rope, limit, expected):
    assert longest_sequence(Qwen2Config(max_position_embeddings=limit, rope_parameters=rope)) == expected


def test_the_older_name():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert longest_sequence(LlamaConfig(max_position_embeddings=32, rope_scaling=scaling)) == 128


def test_other_configurations():
    assert longest_sequence(GPT2Config(n_positions=48)) == 48
    assert longest_sequence(Qwen2VLConfig(text_config={"max_position_embeddings": 96})) == 96
