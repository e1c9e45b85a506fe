"""Build SM89 engines at real size for every family: random fp16 weights, the native backend, one process each.

    python benchmarks/real_sizes.py [--families gpt2 llama …] [--json FILE]

It shows that the networks build, and the time and memory that this takes. Shapes are those of the named checkpoints'
config.json. Mistral's smallest model, of 7 B parameters, does not fit a machine of 24 GB; it is built with 8 of its 32 layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_QWEN = {"tie_word_embeddings": True}
#: Of transformers' default sizes: a layer of each kind, and one that attends to the keys and values of the second.
_SHARED_LAYERS = {
    "num_hidden_layers": 3, "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}  # fmt: skip
SHAPES: dict[str, tuple[str, str, str, dict]] = {
    "gpt2": ("GPT-2", "GPT2Config", "GPT2LMHeadModel", {}),
    "opt": ("OPT-125M", "OPTConfig", "OPTForCausalLM", {}),
    "llama": ("Llama-3.2-1B", "LlamaConfig", "LlamaForCausalLM", {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
        "max_position_embeddings": 131072, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
    "mistral": ("Mistral-7B-v0.1, 8 of 32 layers", "MistralConfig", "MistralForCausalLM", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 8, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 512}),
    "qwen2": ("Qwen2-0.5B, Qwen2.5-0.5B", "Qwen2Config", "Qwen2ForCausalLM", {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, **_QWEN}),
    "qwen3": ("Qwen3-0.6B", "Qwen3Config", "Qwen3ForCausalLM", {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, **_QWEN}),
    "gemma2": ("Gemma-2-2B", "Gemma2Config", "Gemma2ForCausalLM", {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "sliding_window": 512}),
    "gemma3": ("Gemma-3-1B", "Gemma3TextConfig", "Gemma3ForCausalLM", {
        "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144, "sliding_window": 512}),
    "gemma3n": ("Gemma-3n-E4B, 3 of 35 layers", "Gemma3nTextConfig", "Gemma3nForCausalLM", {**_SHARED_LAYERS,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0]}),
    "gemma4": ("Gemma 4, 3 layers of default sizes", "Gemma4TextConfig", "Gemma4ForCausalLM", _SHARED_LAYERS),
    "phi3": ("Phi-3-mini", "Phi3Config", "Phi3ForCausalLM", {"sliding_window": 512}),
    "smollm3": ("SmolLM3-3B", "SmolLM3Config", "SmolLM3ForCausalLM", {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 128256, "tie_word_embeddings": True}),
    "qwen2_vl": ("Qwen2-VL-2B, tower and LLM", "Qwen2VLConfig", "Qwen2VLForConditionalGeneration", {
        "text_config": {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "rope_parameters": {
                "rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}},
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16}, **_QWEN}),
    "qwen2_5_vl": ("Qwen2.5-VL-3B tower, 1 LLM layer", "Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", {
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 1, "num_attention_heads": 16,
            "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "rope_parameters": {
                "rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}},
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
            "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}, **_QWEN}),
    "gemma3_vision": ("Gemma-3-4B tower, 1 LLM layer", "Gemma3Config", "Gemma3ForConditionalGeneration", {
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 1, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "sliding_window": 1024},
        "vision_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 896, "patch_size": 14},
        "mm_tokens_per_image": 256}),
    "smolvlm": ("SmolVLM-500M, tower and LLM", "SmolVLMConfig", "SmolVLMForConditionalGeneration", {
        "text_config": {
            "model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
            "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280},
        "vision_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16},
        "scale_factor": 4, "image_token_id": 49190}),
    "whisper": ("Whisper-small, encoder and decoder", "WhisperConfig", "WhisperForConditionalGeneration", {
        "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "vocab_size": 51865, "num_mel_bins": 80,
        "decoder_start_token_id": 50258}),
    "flan_t5": ("Flan-T5-base, encoder and decoder", "T5Config", "T5ForConditionalGeneration", {
        "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}),
    "nougat": ("Nougat-small, encoder and decoder", "VisionEncoderDecoderConfig", "VisionEncoderDecoderModel", {
        "encoder": {
            "model_type": "donut-swin", "image_size": [896, 672], "patch_size": 4, "depths": [2, 2, 14, 2],
            "num_heads": [4, 8, 16, 32], "window_size": 7, "embed_dim": 128, "hidden_size": 1024},
        "decoder": {
            "model_type": "mbart", "d_model": 1024, "decoder_layers": 4, "vocab_size": 50000, "max_position_embeddings": 3584,
            "scale_embedding": True, "add_final_layer_norm": True, "is_decoder": True, "add_cross_attention": True},
        "decoder_start_token_id": 0, "pad_token_id": 1}),
}  # fmt: skip
#: Tokens of the cache where the model has fewer.
CAPACITIES = {"whisper": 448}
CAPACITY = 1024


def make_model(family: str):
    """Random fp16 weights, without a float32 copy."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    _, config_class, model_class, settings = SHAPES[family]
    config = getattr(transformers, config_class)(**settings)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with no_init_weights():
            model = getattr(transformers, model_class)(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.03, 0.03)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def child(family: str) -> None:
    """One family, in this process; prints a line of JSON."""
    from tt_edge.compile.pipeline import compile_model
    from tt_edge.config import CompileConfig, EngineTarget

    capacity = CAPACITIES.get(family, CAPACITY)
    config = CompileConfig.of(max_input_len=capacity, max_seq_len=capacity, single_profile=True)
    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(lambda: make_model(family), Path(folder) / "out.ttedge", config, EngineTarget(("sm89",)))
    attention = next(p.matches for p in report.decoder.lowering.passes if p.name == "insert_kv_cache")
    print("RESULT " + json.dumps({
        "parameters": report.model.parameters, "layers": report.decoder.engine_layers, "attention": attention,
        "engine_mb": sum(e.bytes for e in report.engines) >> 20, "build_s": sum(e.build_seconds for e in report.engines),
        "peak_mb": report.peak_rss_mb,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    parser.add_argument("--child", choices=SHAPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    print(
        f"{'shape':<32}{'M params':>9}{'attention':>10}{'layers':>8}{'total s':>9}{'build s':>9}{'peak MiB':>10}{'engine MiB':>11}"
    )
    results = []
    for family in args.families:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--child", family]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if line is None:
            print(f"{SHAPES[family][0]:<32} failed: {done.stderr.strip().splitlines()[-1:]} (status {done.returncode})")
            continue
        r = {
            "shape": SHAPES[family][0],
            "total_s": time.perf_counter() - start,
            **json.loads(line.removeprefix("RESULT ")),
        }
        results.append(r)
        print(
            f"{r['shape']:<32}{r['parameters'] / 1e6:>9,.0f}{r['attention']:>10}{r['layers']:>8,}{r['total_s']:>9.1f}"
            f"{r['build_s']:>9.1f}{r['peak_mb']:>10,}{r['engine_mb']:>11,}",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
