// The TensorRT plugins Attention, KVCacheUpdate and Int4GroupwiseGemm, in the namespace tt_edge. Each only describes its
// tensors to TensorRT and calls the C interface. The library exports getCreators(), which IPluginRegistry::loadLibrary()
// looks for; it needs TensorRT's headers to compile, and no library of it.
//
// Attention and KVCacheUpdate change the cache in place: the input and output of that name must be bound to one address.
// No alias is declared (getAliasedInput stays -1), as in NVIDIA's plugins.
#include <cuda_runtime_api.h>

#include "layer.h"

using nvinfer1::DataType;

namespace tt_edge {

std::string read_fields(std::vector<FieldSpec> const &specs, nvinfer1::PluginFieldCollection const &collection) {
    std::vector<bool> given(specs.size(), false);
    for (int32_t i = 0; i < collection.nbFields; ++i) {
        nvinfer1::PluginField const &field = collection.fields[i];
        size_t at = 0;
        while (at < specs.size() && std::strcmp(specs[at].name, field.name) != 0) ++at;
        if (at == specs.size()) return std::string("unknown field ") + field.name;
        auto const wanted = specs[at].integer ? nvinfer1::PluginFieldType::kINT32 : nvinfer1::PluginFieldType::kFLOAT32;
        if (field.type != wanted || field.length != 1 || field.data == nullptr)
            return std::string("field ") + field.name + " is not one " + (specs[at].integer ? "int32" : "float32");
        std::memcpy(specs[at].integer ? static_cast<void *>(specs[at].integer) : specs[at].number, field.data, 4);
        given[at] = true;
    }
    for (size_t i = 0; i < specs.size(); ++i)
        if (specs[i].required && !given[i]) return std::string("field ") + specs[i].name + " is missing";
    return {};
}

namespace {

bool is_activation(DataType type) { return type == DataType::kHALF || type == DataType::kBF16; }
bool is_cache(DataType type, DataType activation) {
    return type == activation || type == DataType::kFP8 || type == DataType::kINT8;
}
int32_t size_of(nvinfer1::PluginTensorDesc const &tensor, int32_t axis) { return static_cast<int32_t>(tensor.dims.d[axis]); }

// Inputs: qkv [B, S, (Hq + 2 Hkv) D], cache [B, 2, Hkv, capacity, D], past_lengths int32 [B], query_lengths int32 [B],
// rope float32 [1 or B, positions, rotary_dim]; with a tree: mask int32 [B, S, ceil(S / 32)] and positions int32 [B, S];
// with sinks: float32 [Hq]. Outputs: attention [B, S, Hq, D], and the cache.
class Attention : public Layer<Attention> {
  public:
    static constexpr char const *kName = "Attention";

    Attention() = default;
    // A clone has counters of its own: contexts may run at the same time.
    Attention(Attention const &other) : Layer<Attention>(), values_(other.values_) {}
    ~Attention() override { cudaFree(counters_); }

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
    std::string check() const {
        switch (values_.head_size) {
            case 64: case 80: case 96: case 128: case 256: break;
            default: return "head_size is " + std::to_string(values_.head_size) + ", not 64, 80, 96, 128 or 256";
        }
        if (values_.kv_heads < 1 || values_.q_heads < 1 || values_.q_heads % values_.kv_heads != 0)
            return "num_q_heads is " + std::to_string(values_.q_heads) + ", no multiple of num_kv_heads " + std::to_string(values_.kv_heads);
        return {};
    }
    int32_t inputs() const { return 5 + (values_.tree ? 2 : 0) + (values_.sinks ? 1 : 0); }
    int32_t outputs() const { return 2; }
    DataType output_type(int32_t index, DataType const *inputs) const { return inputs[index]; }
    nvinfer1::DimsExprs output_shape(int32_t index, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &builder) const {
        if (index == 1) return inputs[1];
        nvinfer1::DimsExprs shape = inputs[0];
        shape.nbDims = 4;
        shape.d[2] = builder.constant(values_.q_heads);
        shape.d[3] = builder.constant(values_.head_size);
        return shape;
    }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        DataType const type = tensors[position].desc.type, activation = tensors[0].desc.type;
        if (position == 0) return is_activation(type);
        if (position == 1) return is_cache(type, activation);
        if (position == inputs()) return type == activation;
        if (position == inputs() + 1) return type == tensors[1].desc.type;
        return type == (position == 4 || (values_.sinks && position == inputs() - 1) ? DataType::kFLOAT : DataType::kINT32);
    }
    // Decode's, at the largest batch; prefill needs none.
    size_t workspace(nvinfer1::DynamicPluginTensorDesc const *inputs) const {
        tt_attention_args const args = sizes(type_code(inputs[0].desc.type), type_code(inputs[1].desc.type),
                                             static_cast<int32_t>(inputs[0].max.d[0]), 1, static_cast<int32_t>(inputs[1].max.d[3]));
        return tt_attention_workspace(&args);
    }
    // The counters of decode, 0 before the first call: made here, where TensorRT changes shapes, so that enqueue allocates nothing.
    char const *prepare(nvinfer1::PluginTensorDesc const *inputs) {
        tt_attention_args args = sizes(type_code(inputs[0].type), type_code(inputs[1].type), size_of(inputs[0], 0), 1, size_of(inputs[1], 3));
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
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) {
        if (inputs[1] != outputs[1]) return "the cache's input and output are bound to two addresses; bind both to one";
        int32_t const tokens = size_of(tensors[0], 1), size = values_.head_size;
        tt_attention_args args = sizes(type_code(tensors[0].type), type_code(tensors[1].type), size_of(tensors[0], 0), tokens, size_of(tensors[1], 3));
        int64_t const width = int64_t{values_.q_heads + 2 * values_.kv_heads} * size;
        if (size_of(tensors[0], 2) != width) return "qkv is not (num_q_heads + 2 num_kv_heads) head_size wide";
        int64_t const element = 2;
        char const *const qkv = static_cast<char const *>(inputs[0]);
        args.q = qkv;
        args.k = qkv + element * values_.q_heads * size;
        args.v = qkv + element * (values_.q_heads + values_.kv_heads) * size;
        args.q_token_stride = args.k_token_stride = args.v_token_stride = width;
        args.q_batch_stride = args.k_batch_stride = args.v_batch_stride = width * tokens;
        args.cache = outputs[1];
        args.past_lengths = static_cast<int32_t const *>(inputs[2]);
        args.query_lengths = static_cast<int32_t const *>(inputs[3]);
        args.rope = static_cast<float const *>(inputs[4]);
        args.rope_positions = size_of(tensors[4], 1);
        args.rotary_dim = size_of(tensors[4], 2);
        args.rope_batch_stride = size_of(tensors[4], 0) == 1 ? 0 : int64_t{args.rope_positions} * args.rotary_dim;
        if (values_.tree) {
            args.tree_mask = static_cast<uint32_t const *>(inputs[5]);
            args.positions = static_cast<int32_t const *>(inputs[6]);
        }
        if (values_.sinks) args.sinks = static_cast<float const *>(inputs[this->inputs() - 1]);
        args.out = outputs[0];
        args.workspace = workspace;
        args.counters = counters_;
        return tt_attention(&args, stream);
    }

  private:
    struct Values {
        int32_t q_heads = 0, kv_heads = 0, head_size = 0, window = 0, tree = 0, sinks = 0;
        float scale = 0.f, softcap = 0.f, k_scale = 1.f, v_scale = 1.f;
    };

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

    Values values_;
    uint32_t *counters_ = nullptr;
    size_t counted_ = 0;
};

// Inputs: k and v [B, S, Hkv D], the cache, past_lengths and query_lengths as above. Output: the cache. No RoPE.
class KVCacheUpdate : public Layer<KVCacheUpdate> {
  public:
    static constexpr char const *kName = "KVCacheUpdate";

    KVCacheUpdate() = default;
    KVCacheUpdate(KVCacheUpdate const &other) : Layer<KVCacheUpdate>(), k_scale_(other.k_scale_), v_scale_(other.v_scale_) {}

    std::vector<FieldSpec> fields() { return {{"k_scale", nullptr, &k_scale_, false}, {"v_scale", nullptr, &v_scale_, false}}; }
    std::string check() const { return k_scale_ > 0.f && v_scale_ > 0.f ? "" : "k_scale and v_scale have to be positive"; }
    int32_t inputs() const { return 5; }
    int32_t outputs() const { return 1; }
    DataType output_type(int32_t, DataType const *inputs) const { return inputs[2]; }
    nvinfer1::DimsExprs output_shape(int32_t, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &) const { return inputs[2]; }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        DataType const type = tensors[position].desc.type;
        switch (position) {
            case 0: return is_activation(type);
            case 1: return type == tensors[0].desc.type;
            case 2: return is_cache(type, tensors[0].desc.type);
            case 5: return type == tensors[2].desc.type;
            default: return type == DataType::kINT32;
        }
    }
    size_t workspace(nvinfer1::DynamicPluginTensorDesc const *) const { return 0; }
    char const *prepare(nvinfer1::PluginTensorDesc const *) { return nullptr; }
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *, cudaStream_t stream) {
        if (inputs[2] != outputs[0]) return "the cache's input and output are bound to two addresses; bind both to one";
        tt_attention_args args = {};
        args.k = inputs[0], args.v = inputs[1], args.cache = outputs[0];
        args.batch = size_of(tensors[0], 0), args.q_tokens = size_of(tensors[0], 1);
        args.kv_heads = size_of(tensors[2], 2), args.capacity = size_of(tensors[2], 3), args.head_size = size_of(tensors[2], 4);
        if (size_of(tensors[0], 2) != args.kv_heads * args.head_size) return "k is not as wide as the cache's heads";
        args.k_token_stride = args.v_token_stride = size_of(tensors[0], 2);
        args.k_batch_stride = args.v_batch_stride = args.k_token_stride * args.q_tokens;
        args.past_lengths = static_cast<int32_t const *>(inputs[3]);
        args.query_lengths = static_cast<int32_t const *>(inputs[4]);
        args.k_scale = k_scale_, args.v_scale = v_scale_;
        args.type = type_code(tensors[0].type), args.cache_type = type_code(tensors[2].type);
        return tt_kv_update(&args, stream);
    }

  private:
    float k_scale_ = 1.f, v_scale_ = 1.f;
};

// Inputs: x [..., K], weights int8 [N / 2, K] in NVIDIA's packing, scales [K / 128, N]. Output: [..., N].
class Int4GroupwiseGemm : public Layer<Int4GroupwiseGemm> {
  public:
    static constexpr char const *kName = "Int4GroupwiseGemm";

    Int4GroupwiseGemm() = default;
    Int4GroupwiseGemm(Int4GroupwiseGemm const &other) : Layer<Int4GroupwiseGemm>(), n_(other.n_), k_(other.k_), group_(other.group_) {}

    std::vector<FieldSpec> fields() {
        return {{"gemm_n", &n_, nullptr, true}, {"gemm_k", &k_, nullptr, true}, {"group_size", &group_, nullptr, true}};
    }
    std::string check() const {
        if (group_ != 128) return "group_size is " + std::to_string(group_) + ", not 128";
        if (n_ < 4 || n_ % 4 != 0) return "gemm_n is " + std::to_string(n_) + ", no multiple of 4";
        return k_ < 128 || k_ % 128 != 0 ? "gemm_k is " + std::to_string(k_) + ", no multiple of 128" : "";
    }
    int32_t inputs() const { return 3; }
    int32_t outputs() const { return 1; }
    DataType output_type(int32_t, DataType const *inputs) const { return inputs[0]; }
    nvinfer1::DimsExprs output_shape(int32_t, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &builder) const {
        nvinfer1::DimsExprs shape = inputs[0];
        shape.d[shape.nbDims - 1] = builder.constant(n_);
        return shape;
    }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        DataType const type = tensors[position].desc.type;
        if (position == 1) return type == DataType::kINT8;
        return position == 0 ? is_activation(type) : type == tensors[0].desc.type;
    }
    size_t workspace(nvinfer1::DynamicPluginTensorDesc const *) const { return 0; }
    char const *prepare(nvinfer1::PluginTensorDesc const *) { return nullptr; }
    // 64 rows at a time: TensorRT lends no library for a dense product, so that long prompts are slower than they could be.
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *, cudaStream_t stream) {
        int64_t rows = 1;
        for (int32_t axis = 0; axis < tensors[0].dims.nbDims - 1; ++axis) rows *= tensors[0].dims.d[axis];
        if (tensors[0].dims.d[tensors[0].dims.nbDims - 1] != k_) return "x is not gemm_k wide";
        for (int64_t row = 0; row < rows; row += 64) {
            int32_t const count = static_cast<int32_t>(rows - row < 64 ? rows - row : 64);
            tt_int4_args args = {static_cast<char const *>(inputs[0]) + 2 * row * k_, inputs[1], inputs[2],
                                 static_cast<char *>(outputs[0]) + 2 * row * n_, count, n_, k_, group_, type_code(tensors[0].type)};
            if (char const *text = tt_int4_gemm(&args, stream)) return text;
        }
        return nullptr;
    }

  private:
    int32_t n_ = 0, k_ = 0, group_ = 0;
};

}  // namespace
}  // namespace tt_edge

extern "C" TT_EDGE_API nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    static tt_edge::Creator<tt_edge::Attention> attention;
    static tt_edge::Creator<tt_edge::KVCacheUpdate> update;
    static tt_edge::Creator<tt_edge::Int4GroupwiseGemm> gemm;
    static nvinfer1::IPluginCreatorInterface *const creators[] = {&attention, &update, &gemm};
    count = 3;
    return creators;
}

extern "C" TT_EDGE_API void setLoggerFinder(nvinfer1::ILoggerFinder *) {}
