// Asks a V3 plugin which types and shapes it takes. Python cannot: TensorRT's bindings give C++ plugins no such calls.
//
// Compiled when `tt-edge plugin check` runs, against the headers of the TensorRT that is installed; see formats.py.

#include <NvInferRuntime.h>

#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <vector>

namespace
{

constexpr int32_t kMAX_RANK = 8;

nvinfer1::Dims dims(int32_t rank, int64_t const* sizes)
{
    nvinfer1::Dims result{};
    result.nbDims = rank;
    for (int32_t i = 0; i < rank; ++i)
    {
        result.d[i] = sizes[i];
    }
    return result;
}

} // namespace

// Fields: name, PluginFieldType, data, length. Tensors, inputs first: DataType, rank, and four times 8 sizes each: with -1
// for those that vary, the least, the most usual and the largest. `accepted` takes 1 or 0 for each tensor, then for configurePlugin.
// Returns 0, or which step failed: 1 registry, 2 creator, 3 creation, 4 build capability.
extern "C" int32_t tt_edge_plugin_formats(char const* name, char const* version, char const* pluginNamespace,
    int32_t nbFields, char const* const* fieldNames, int32_t const* fieldTypes, void const* const* fieldData,
    int32_t const* fieldLengths, int32_t nbInputs, int32_t nbOutputs, int32_t const* types, int32_t const* ranks,
    int64_t const* sizes, int32_t* accepted)
{
    // The library of TensorRT has another name in each distribution; whichever is loaded has this function.
    auto const registryOf
        = reinterpret_cast<nvinfer1::IPluginRegistry* (*) ()>(dlsym(RTLD_DEFAULT, "getPluginRegistry"));
    if (registryOf == nullptr || registryOf() == nullptr)
    {
        return 1;
    }
    auto* const found = registryOf()->getCreator(name, version, pluginNamespace);
    // By what it says, not by dynamic_cast: the library may be built without type information.
    if (found == nullptr || std::strcmp(found->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0)
    {
        return 2;
    }
    auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(found);
    std::vector<nvinfer1::PluginField> fields;
    for (int32_t i = 0; i < nbFields; ++i)
    {
        auto const type = static_cast<nvinfer1::PluginFieldType>(fieldTypes[i]);
        fields.emplace_back(fieldNames[i], fieldData[i], type, fieldLengths[i]);
    }
    nvinfer1::PluginFieldCollection const collection{nbFields, fields.data()};
    nvinfer1::IPluginV3* const plugin
        = creator->createPlugin("tt_edge_check", &collection, nvinfer1::TensorRTPhase::kBUILD);
    if (plugin == nullptr)
    {
        return 3;
    }
    auto* const build = static_cast<nvinfer1::IPluginV3OneBuild*>(
        plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
    if (build == nullptr)
    {
        delete plugin;
        return 4;
    }
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors(nbInputs + nbOutputs);
    for (int32_t i = 0; i < nbInputs + nbOutputs; ++i)
    {
        auto const* const shapes = sizes + 4 * kMAX_RANK * i;
        auto& tensor = tensors[i];
        tensor.desc.type = static_cast<nvinfer1::DataType>(types[i]);
        tensor.desc.format = nvinfer1::TensorFormat::kLINEAR;
        tensor.desc.scale = 1.F;
        tensor.desc.dims = dims(ranks[i], shapes);
        tensor.min = dims(ranks[i], shapes + kMAX_RANK);
        tensor.opt = dims(ranks[i], shapes + 2 * kMAX_RANK);
        tensor.max = dims(ranks[i], shapes + 3 * kMAX_RANK);
    }
    for (int32_t i = 0; i < nbInputs + nbOutputs; ++i)
    {
        accepted[i] = build->supportsFormatCombination(i, tensors.data(), nbInputs, nbOutputs) ? 1 : 0;
    }
    accepted[nbInputs + nbOutputs]
        = build->configurePlugin(tensors.data(), nbInputs, tensors.data() + nbInputs, nbOutputs) == 0 ? 1 : 0;
    delete plugin;
    return 0;
}
