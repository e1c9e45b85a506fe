// Attention, and under NVIDIA's name and contract of Edge-LLM 0.9.1 AttentionPlugin: one layer's RoPE, cache and attention.
#pragma once

#include <cuda_runtime_api.h>

#include "layer.h"

namespace tt_edge {

// What both have: numbers of heads, the sizes that the kernels are asked for, and decode's counters.
template <typename Derived> class AttentionLayer : public Layer<Derived> {
  public:
    AttentionLayer() = default;
    // A clone has counters of its own: contexts may run at the same time.
    AttentionLayer(AttentionLayer const &other) : Layer<Derived>(), values_(other.values_) {}
    ~AttentionLayer() override { cudaFree(counters_); }

    int32_t outputs() const { return 2; }
    nvinfer1::DataType output_type(int32_t index, nvinfer1::DataType const *inputs) const {
        return index == 1 ? inputs[Derived::kCache] : inputs[0];
    }
    nvinfer1::DimsExprs output_shape(int32_t index, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &builder) const {
        if (index == 1) return inputs[Derived::kCache];
        nvinfer1::DimsExprs shape = inputs[0];
        shape.nbDims = 4;
        shape.d[2] = builder.constant(values_.q_heads);
        shape.d[3] = builder.constant(values_.head_size);
        return shape;
    }
    // Decode's, at the largest batch; prefill needs none.
    size_t workspace(nvinfer1::DynamicPluginTensorDesc const *inputs) const {
        nvinfer1::DynamicPluginTensorDesc const &cache = inputs[Derived::kCache];
        tt_attention_args const args = sizes(type_code(inputs[0].desc.type), type_code(cache.desc.type),
                                             static_cast<int32_t>(inputs[0].max.d[0]), 1, static_cast<int32_t>(cache.max.d[3]));
        return tt_attention_workspace(&args);
    }
    // The counters of decode, 0 before the first call: made here, where TensorRT changes shapes, so that enqueue allocates nothing.
    char const *prepare(nvinfer1::PluginTensorDesc const *inputs) {
        nvinfer1::PluginTensorDesc const &cache = inputs[Derived::kCache];
        tt_attention_args args = sizes(type_code(inputs[0].type), type_code(cache.type), size_of(inputs[0], 0), 1, size_of(cache, 3));
        size_t const wanted = tt_attention_counters(&args);
        if (wanted <= counted_) return nullptr;
        cudaFree(counters_);
        counters_ = nullptr, counted_ = 0;
        if (cudaMalloc(reinterpret_cast<void **>(&counters_), wanted * sizeof(uint32_t)) != cudaSuccess ||
            cudaMemset(counters_, 0, wanted * sizeof(uint32_t)) != cudaSuccess)
            return "no memory for the counters";
        counted_ = wanted;
        return nullptr;
    }

  protected:
    struct Values {
        int32_t q_heads = 0, kv_heads = 0, head_size = 0, window = 0, tree = 0, sinks = 0;
        float scale = 0.f, softcap = 0.f, k_scale = 1.f, v_scale = 1.f;
    };

    std::string check_heads() const {
        switch (values_.head_size) {
            case 64: case 80: case 96: case 128: case 256: break;
            default: return "head_size is " + std::to_string(values_.head_size) + ", not 64, 80, 96, 128 or 256";
        }
        if (values_.kv_heads < 1 || values_.q_heads < 1 || values_.q_heads % values_.kv_heads != 0)
            return "num_q_heads is " + std::to_string(values_.q_heads) + ", no multiple of num_kv_heads " + std::to_string(values_.kv_heads);
        return {};
    }
    // The arguments that a call has from its shapes: `cache` and `rope` are the descriptions of those inputs.
    tt_attention_args arguments(nvinfer1::PluginTensorDesc const &first, nvinfer1::PluginTensorDesc const &cache,
                                nvinfer1::PluginTensorDesc const &rope, void const *table, void *const *outputs, void *workspace) const {
        tt_attention_args args = sizes(type_code(first.type), type_code(cache.type), size_of(first, 0), size_of(first, 1), size_of(cache, 3));
        args.rope = static_cast<float const *>(table);
        args.rope_positions = size_of(rope, 1);
        args.rotary_dim = size_of(rope, 2);
        args.rope_batch_stride = size_of(rope, 0) == 1 ? 0 : int64_t{args.rope_positions} * args.rotary_dim;
        args.out = outputs[0];
        args.cache = outputs[1];
        args.workspace = workspace;
        args.counters = counters_;
        return args;
    }

    Values values_;

  private:
    tt_attention_args sizes(int32_t type, int32_t cache_type, int32_t batch, int32_t tokens, int32_t capacity) const {
        static char const aligned alignas(16)[16] = {};  // sizes are asked for before there are tensors
        tt_attention_args args = {};
        args.q = args.k = args.v = aligned;
        args.cache = args.out = const_cast<char *>(aligned);
        args.scale = values_.scale, args.softcap = values_.softcap;
        args.k_scale = values_.k_scale, args.v_scale = values_.v_scale;
        args.batch = batch, args.q_tokens = tokens, args.capacity = capacity;
        args.q_heads = values_.q_heads, args.kv_heads = values_.kv_heads, args.head_size = values_.head_size;
        args.window = values_.window, args.type = type, args.cache_type = cache_type;
        return args;
    }

    uint32_t *counters_ = nullptr;
    size_t counted_ = 0;
};

constexpr char const *kTwoAddresses = "the cache's input and output are bound to two addresses; bind both to one";

// Inputs: qkv [B, S, (Hq + 2 Hkv) D], cache [B, 2, Hkv, capacity, D], past_lengths int32 [B], query_lengths int32 [B],
// rope float32 [1 or B, positions, rotary_dim]; with a tree: mask int32 [B, S, ceil(S / 32)] and positions int32 [B, S];
// with sinks: float32 [Hq]. Outputs: attention [B, S, Hq, D], and the cache.
class Attention : public AttentionLayer<Attention> {
  public:
    static constexpr char const *kName = "Attention", *kNamespace = kOwnNamespace;
    static constexpr int32_t kCache = 1;

    std::vector<FieldSpec> fields() {
        return {{"num_q_heads", &values_.q_heads, nullptr, true},
                {"num_kv_heads", &values_.kv_heads, nullptr, true},
                {"head_size", &values_.head_size, nullptr, true},
                {"attention_scale", nullptr, &values_.scale, true},
                {"sliding_window_size", &values_.window, nullptr, false},
                {"softcap", nullptr, &values_.softcap, false},
                {"enable_tree_attention", &values_.tree, nullptr, false},
                {"enable_attention_sink", &values_.sinks, nullptr, false},
                {"k_scale", nullptr, &values_.k_scale, false},
                {"v_scale", nullptr, &values_.v_scale, false}};
    }
    std::string check() const { return check_heads(); }
    int32_t inputs() const { return 5 + (values_.tree ? 2 : 0) + (values_.sinks ? 1 : 0); }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        nvinfer1::DataType const type = tensors[position].desc.type, activation = tensors[0].desc.type;
        if (position == 0) return is_activation(type);
        if (position == kCache) return is_cache(type, activation);
        if (position == inputs()) return type == activation;
        if (position == inputs() + 1) return type == tensors[kCache].desc.type;
        bool const is_float = position == 4 || (values_.sinks && position == inputs() - 1);
        return type == (is_float ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kINT32);
    }
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) {
        if (inputs[kCache] != outputs[1]) return kTwoAddresses;
        int64_t const size = values_.head_size, width = (values_.q_heads + 2 * values_.kv_heads) * size, element = 2;
        if (size_of(tensors[0], 2) != width) return "qkv is not (num_q_heads + 2 num_kv_heads) head_size wide";
        tt_attention_args args = arguments(tensors[0], tensors[kCache], tensors[4], inputs[4], outputs, workspace);
        char const *const qkv = static_cast<char const *>(inputs[0]);
        args.q = qkv;
        args.k = qkv + element * values_.q_heads * size;
        args.v = qkv + element * (values_.q_heads + values_.kv_heads) * size;
        args.q_token_stride = args.k_token_stride = args.v_token_stride = width;
        args.q_batch_stride = args.k_batch_stride = args.v_batch_stride = width * args.q_tokens;
        args.past_lengths = static_cast<int32_t const *>(inputs[2]);
        args.query_lengths = static_cast<int32_t const *>(inputs[3]);
        if (values_.tree) {
            args.tree_mask = static_cast<uint32_t const *>(inputs[5]);
            args.positions = static_cast<int32_t const *>(inputs[6]);
        }
        if (values_.sinks) args.sinks = static_cast<float const *>(inputs[this->inputs() - 1]);
        return tt_attention(&args, stream);
    }
};

// NVIDIA's AttentionPlugin as Edge-LLM 0.9.1 has it, so that its bundles run with this library, too. Inputs: q [B, S, Hq D], k and v
// [B, S, Hkv D], cache [B, 2, Hkv, capacity, D], context_lengths int32 [B], rope float32 [1 or B, positions, rotary_dim],
// kvcache_start_index int32 [0 or B]. Outputs: attention [B, S, Hq, D], and the cache. Trees and vision blocks are refused.
class EdgeAttention : public AttentionLayer<EdgeAttention> {
  public:
    static constexpr char const *kName = "AttentionPlugin", *kNamespace = "";
    static constexpr int32_t kCache = 3;

    EdgeAttention() = default;
    EdgeAttention(EdgeAttention const &other)
        : AttentionLayer<EdgeAttention>(other), fp8_(other.fp8_), vision_(other.vision_), scales_{other.scales_[0], other.scales_[1], other.scales_[2]} {}

    std::vector<FieldSpec> fields() {
        return {{"num_q_heads", &values_.q_heads, nullptr, true},
                {"num_kv_heads", &values_.kv_heads, nullptr, true},
                {"head_size", &values_.head_size, nullptr, true},
                {"attention_scale", nullptr, &values_.scale, false},
                {"enable_tree_attention", &values_.tree, nullptr, false},
                {"enable_fp8_kv_cache", &fp8_, nullptr, false},
                {"enable_vision_block_attention", &vision_, nullptr, false},
                {"sliding_window_size", &values_.window, nullptr, false},
                {"qkv_scales", nullptr, scales_, false, 3}};
    }
    std::string check() const {
        if (values_.tree) return "enable_tree_attention is not supported under this name; compile with --plugin-contract tt-edge";
        if (vision_) return "enable_vision_block_attention is not supported";
        return check_heads();
    }
    int32_t inputs() const { return 7; }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        nvinfer1::DataType const type = tensors[position].desc.type, activation = tensors[0].desc.type;
        switch (position) {
            case 0: return is_activation(type);
            case 1: case 2: case 7: return type == activation;
            case kCache: return type == (fp8_ ? nvinfer1::DataType::kFP8 : activation);
            case 5: return type == nvinfer1::DataType::kFLOAT;
            case 8: return type == tensors[kCache].desc.type;
            default: return type == nvinfer1::DataType::kINT32;
        }
    }
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) {
        if (inputs[kCache] != outputs[1]) return kTwoAddresses;
        int32_t const size = values_.head_size;
        if (size_of(tensors[0], 2) != values_.q_heads * size || size_of(tensors[1], 2) != values_.kv_heads * size)
            return "q or k is not as wide as its heads";
        tt_attention_args args = arguments(tensors[0], tensors[kCache], tensors[5], inputs[5], outputs, workspace);
        if (!(args.scale > 0.f)) args.scale = 1.f / std::sqrt(static_cast<float>(size));
        args.k_scale = scales_[1], args.v_scale = scales_[2];
        args.q = inputs[0], args.k = inputs[1], args.v = inputs[2];
        args.q_token_stride = int64_t{values_.q_heads} * size, args.k_token_stride = args.v_token_stride = int64_t{values_.kv_heads} * size;
        args.q_batch_stride = args.q_token_stride * args.q_tokens, args.k_batch_stride = args.v_batch_stride = args.k_token_stride * args.q_tokens;
        int32_t const *const lengths = static_cast<int32_t const *>(inputs[4]);
        bool const has_past = size_of(tensors[6], 0) > 0;
        if (has_past && args.q_tokens == 1) {  // decode: all tokens after this step
            args.past_lengths = lengths, args.past_offset = -1;
        } else {
            args.query_lengths = lengths;
            if (has_past) args.past_lengths = static_cast<int32_t const *>(inputs[6]);
        }
        return tt_attention(&args, stream);
    }

  private:
    int32_t fp8_ = 0, vision_ = 0;
    float scales_[3] = {1.f, 1.f, 1.f};
};

}  // namespace tt_edge
