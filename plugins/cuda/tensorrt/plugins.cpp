// The TensorRT plugins Attention, KVCacheUpdate and Int4GroupwiseGemm, in the namespace tt_edge, and AttentionPlugin and
// Int4GroupwiseGemmPlugin under NVIDIA's names. Each only describes its tensors to TensorRT and calls the C interface. The library exports getCreators(), which IPluginRegistry::loadLibrary()
// looks for; it needs TensorRT's headers to compile, and no library of it.
//
// Attention and KVCacheUpdate change the cache in place: the input and output of that name must be bound to one address.
// No alias is declared (getAliasedInput stays -1), as in NVIDIA's plugins.
#include "attention.h"
#include "int4_gemm.h"

using nvinfer1::DataType;

namespace tt_edge {

std::string read_fields(std::vector<FieldSpec> const &specs, nvinfer1::PluginFieldCollection const &collection) {
    std::vector<bool> given(specs.size(), false);
    for (int32_t i = 0; i < collection.nbFields; ++i) {
        nvinfer1::PluginField const &field = collection.fields[i];
        size_t at = 0;
        while (at < specs.size() && std::strcmp(specs[at].name, field.name) != 0) ++at;
        if (at == specs.size()) return std::string("unknown field ") + field.name;
        FieldSpec const &spec = specs[at];
        if (field.type != spec.type() || field.length != spec.count || field.data == nullptr)
            return std::string("field ") + field.name + " is not " + (spec.count == 1 ? "one" : std::to_string(spec.count)) +
                   (spec.integer ? " int32" : " float32");
        std::memcpy(spec.data(), field.data, 4 * static_cast<size_t>(spec.count));
        given[at] = true;
    }
    for (size_t i = 0; i < specs.size(); ++i)
        if (specs[i].required && !given[i]) return std::string("field ") + specs[i].name + " is missing";
    return {};
}

namespace {

// Inputs: k and v [B, S, Hkv D], the cache, past_lengths and query_lengths as above. Output: the cache. No RoPE.
class KVCacheUpdate : public Layer<KVCacheUpdate> {
  public:
    static constexpr char const *kName = "KVCacheUpdate", *kNamespace = kOwnNamespace;

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

}  // namespace
}  // namespace tt_edge

extern "C" TT_EDGE_API nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    using namespace tt_edge;
    static Creator<Attention> attention;
    static Creator<KVCacheUpdate> update;
    static Creator<Int4Gemm<OwnInt4>> gemm;
    static Creator<EdgeAttention> edge_attention;
    static Creator<Int4Gemm<EdgeInt4>> edge_gemm;
    static nvinfer1::IPluginCreatorInterface *const creators[] = {&attention, &update, &gemm, &edge_attention, &edge_gemm};
    count = 5;
    return creators;
}

extern "C" TT_EDGE_API void setLoggerFinder(nvinfer1::ILoggerFinder *) {}
