// What all plugins of tt-edge share: the parts of IPluginV3 (TensorRT 10.0 and later) that do not depend on the layer.
#pragma once

#include <NvInferRuntime.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../tt_edge_kernels.h"

namespace tt_edge {

constexpr char const *kOwnNamespace = "tt_edge";
constexpr char const *kVersion = "1";

// A field of a creator and where its values are kept: `count` of int32 or of float32. `required` ones have no default.
struct FieldSpec {
    char const *name;
    int32_t *integer;
    float *number;
    bool required;
    int32_t count = 1;

    nvinfer1::PluginFieldType type() const { return integer ? nvinfer1::PluginFieldType::kINT32 : nvinfer1::PluginFieldType::kFLOAT32; }
    void *data() const { return integer ? static_cast<void *>(integer) : number; }
};

// Values of fields, from a collection. Returns an error text, empty if all is well; an unknown field is an error.
std::string read_fields(std::vector<FieldSpec> const &specs, nvinfer1::PluginFieldCollection const &collection);

inline bool is_activation(nvinfer1::DataType type) { return type == nvinfer1::DataType::kHALF || type == nvinfer1::DataType::kBF16; }
inline bool is_cache(nvinfer1::DataType type, nvinfer1::DataType activation) {
    return type == activation || type == nvinfer1::DataType::kFP8 || type == nvinfer1::DataType::kINT8;
}
inline int32_t size_of(nvinfer1::PluginTensorDesc const &tensor, int32_t axis) { return static_cast<int32_t>(tensor.dims.d[axis]); }

inline int32_t type_code(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kHALF: return TT_FLOAT16;
        case nvinfer1::DataType::kBF16: return TT_BFLOAT16;
        case nvinfer1::DataType::kFP8: return TT_FLOAT8;
        case nvinfer1::DataType::kINT8: return TT_INT8;
        default: return -1;
    }
}

// Says what is wrong where TensorRT's logger cannot be had, and is the status that TensorRT takes for a failure.
inline int32_t failed(char const *plugin, char const *text) {
    if (text == nullptr) return 0;
    std::fprintf(stderr, "tt_edge::%s: %s\n", plugin, text);
    return -1;
}

// `Derived` is the layer: copyable, with kName, kNamespace, fields(), outputs(), output_type(), output_shape(), supports(),
// workspace() and run(); all get TensorRT's own descriptions.
template <typename Derived>
class Layer : public nvinfer1::IPluginV3,
              public nvinfer1::IPluginV3OneCore,
              public nvinfer1::IPluginV3OneBuild,
              public nvinfer1::IPluginV3OneRuntime {
  public:
    nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore *>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild *>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
        }
        return nullptr;
    }
    nvinfer1::IPluginV3 *clone() noexcept override { return new Derived(derived()); }

    char const *getPluginName() const noexcept override { return Derived::kName; }
    char const *getPluginVersion() const noexcept override { return kVersion; }
    char const *getPluginNamespace() const noexcept override { return Derived::kNamespace; }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const *, int32_t, nvinfer1::DynamicPluginTensorDesc const *,
                            int32_t) noexcept override {
        return 0;
    }
    int32_t getNbOutputs() const noexcept override { return derived().outputs(); }
    int32_t getOutputDataTypes(nvinfer1::DataType *outputs, int32_t count, nvinfer1::DataType const *inputs,
                               int32_t) const noexcept override {
        for (int32_t i = 0; i < count; ++i) outputs[i] = derived().output_type(i, inputs);
        return 0;
    }
    int32_t getOutputShapes(nvinfer1::DimsExprs const *inputs, int32_t, nvinfer1::DimsExprs const *, int32_t,
                            nvinfer1::DimsExprs *outputs, int32_t count, nvinfer1::IExprBuilder &builder) noexcept override {
        for (int32_t i = 0; i < count; ++i) outputs[i] = derived().output_shape(i, inputs, builder);
        return 0;
    }
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors, int32_t inputs,
                                   int32_t) noexcept override {
        return tensors[position].desc.format == nvinfer1::TensorFormat::kLINEAR && inputs == derived().inputs() &&
               derived().supports(position, tensors);
    }
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const *inputs, int32_t, nvinfer1::DynamicPluginTensorDesc const *,
                            int32_t) const noexcept override {
        return derived().workspace(inputs);
    }
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const *inputs, int32_t, nvinfer1::PluginTensorDesc const *,
                          int32_t) noexcept override {
        return failed(Derived::kName, derived().prepare(inputs));
    }
    int32_t enqueue(nvinfer1::PluginTensorDesc const *descriptions, nvinfer1::PluginTensorDesc const *, void const *const *inputs,
                    void *const *outputs, void *workspace, cudaStream_t stream) noexcept override {
        return failed(Derived::kName, derived().run(descriptions, inputs, outputs, workspace, stream));
    }
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *) noexcept override { return clone(); }

    nvinfer1::PluginFieldCollection const *getFieldsToSerialize() noexcept override {
        serialized_.clear();
        for (FieldSpec const &spec : derived().fields())
            serialized_.emplace_back(spec.name, spec.data(), spec.type(), spec.count);
        collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
        return &collection_;
    }

  private:
    Derived &derived() { return static_cast<Derived &>(*this); }
    Derived const &derived() const { return static_cast<Derived const &>(*this); }

    std::vector<nvinfer1::PluginField> serialized_;
    nvinfer1::PluginFieldCollection collection_{};
};

template <typename Derived> class Creator : public nvinfer1::IPluginCreatorV3One {
  public:
    Creator() {
        Derived layer;
        for (FieldSpec const &spec : layer.fields())
            fields_.emplace_back(spec.name, nullptr, spec.type(), spec.count);
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }
    nvinfer1::IPluginV3 *createPlugin(char const *, nvinfer1::PluginFieldCollection const *collection,
                                      nvinfer1::TensorRTPhase) noexcept override {
        auto layer = std::make_unique<Derived>();
        std::string fault = collection ? read_fields(layer->fields(), *collection) : "no fields are given";
        if (fault.empty()) fault = layer->check();
        if (fault.empty()) return layer.release();
        failed(Derived::kName, fault.c_str());
        return nullptr;
    }
    nvinfer1::PluginFieldCollection const *getFieldNames() noexcept override { return &collection_; }
    char const *getPluginName() const noexcept override { return Derived::kName; }
    char const *getPluginVersion() const noexcept override { return kVersion; }
    char const *getPluginNamespace() const noexcept override { return Derived::kNamespace; }

  private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace tt_edge
