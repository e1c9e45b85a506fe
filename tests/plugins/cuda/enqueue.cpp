// A plugin object as TensorRT uses it, without TensorRT's library: created from fields, serialized, created again for the
// runtime, attached to a context, told its shapes, and enqueued.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstring>

using namespace nvinfer1;

namespace {
PluginTensorDesc describe(int32_t type, int32_t rank, int64_t const *dims) {
    PluginTensorDesc tensor{};
    tensor.type = static_cast<DataType>(type);
    tensor.format = TensorFormat::kLINEAR;
    tensor.scale = 1.f;
    tensor.dims.nbDims = rank;
    for (int32_t i = 0; i < rank; ++i) tensor.dims.d[i] = dims[i];
    return tensor;
}
IPluginV3OneBuild *build(IPluginV3 *plugin) {
    return static_cast<IPluginV3OneBuild *>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}
IPluginV3OneRuntime *runtime(IPluginV3 *plugin) {
    return static_cast<IPluginV3OneRuntime *>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}
}  // namespace

extern "C" {

// NULL if the library has no such creator, or the creator refuses the fields.
void *create(char const *library, char const *name, int32_t count, char const *const *names, int32_t const *is_float, void const *values) {
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle) return nullptr;
    using Creators = IPluginCreatorInterface *const *(*)(int32_t &);
    int32_t creators = 0;
    IPluginCreatorInterface *const *const all = reinterpret_cast<Creators>(dlsym(handle, "getCreators"))(creators);
    PluginField fields[32];
    for (int32_t i = 0; i < count; ++i)
        fields[i] = PluginField(names[i], static_cast<char const *>(values) + 4 * i,
                                is_float[i] ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32, 1);
    PluginFieldCollection collection{count, fields};
    for (int32_t i = 0; i < creators; ++i) {
        auto *creator = static_cast<IPluginCreatorV3One *>(all[i]);
        if (std::strcmp(creator->getPluginName(), name) != 0) continue;
        IPluginV3 *built = creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
        if (!built) return nullptr;
        IPluginV3 *loaded = creator->createPlugin("layer", runtime(built)->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
        IPluginV3 *attached = loaded ? runtime(loaded)->attachToContext(nullptr) : nullptr;
        delete built;
        delete loaded;
        return attached;
    }
    return nullptr;
}

void destroy(void *plugin) { delete static_cast<IPluginV3 *>(plugin); }

// Tensors: inputs, then outputs; dims are 8 a tensor. Bits of positions whose format is refused.
int64_t refused(void *plugin, int32_t inputs, int32_t outputs, int32_t const *types, int32_t const *ranks, int64_t const *dims) {
    DynamicPluginTensorDesc all[16] = {};
    for (int32_t i = 0; i < inputs + outputs; ++i) all[i].desc = describe(types[i], ranks[i], dims + 8 * i);
    int64_t bits = 0;
    for (int32_t i = 0; i < inputs + outputs; ++i)
        if (!build(static_cast<IPluginV3 *>(plugin))->supportsFormatCombination(i, all, inputs, outputs)) bits |= int64_t{1} << i;
    return bits;
}

int64_t workspace(void *plugin, int32_t inputs, int32_t const *types, int32_t const *ranks, int64_t const *dims) {
    DynamicPluginTensorDesc all[16] = {};
    for (int32_t i = 0; i < inputs; ++i) {
        all[i].desc = describe(types[i], ranks[i], dims + 8 * i);
        all[i].max = all[i].desc.dims;
    }
    return static_cast<int64_t>(build(static_cast<IPluginV3 *>(plugin))->getWorkspaceSize(all, inputs, nullptr, 0));
}

int32_t shapes(void *plugin, int32_t inputs, int32_t const *types, int32_t const *ranks, int64_t const *dims) {
    PluginTensorDesc all[16];
    for (int32_t i = 0; i < inputs; ++i) all[i] = describe(types[i], ranks[i], dims + 8 * i);
    return runtime(static_cast<IPluginV3 *>(plugin))->onShapeChange(all, inputs, nullptr, 0);
}

int32_t enqueue(void *plugin, int32_t inputs, int32_t const *types, int32_t const *ranks, int64_t const *dims, void const *const *in,
                void *const *out, void *space, void *stream) {
    PluginTensorDesc all[16];
    for (int32_t i = 0; i < inputs; ++i) all[i] = describe(types[i], ranks[i], dims + 8 * i);
    return runtime(static_cast<IPluginV3 *>(plugin))->enqueue(all, nullptr, in, out, space, static_cast<cudaStream_t>(stream));
}
}
