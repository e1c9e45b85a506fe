// Int4GroupwiseGemm, and the same layer under NVIDIA's name.
#pragma once

#include "dense_product.h"
#include "layer.h"

namespace tt_edge {

struct OwnInt4 { static constexpr char const *kName = "Int4GroupwiseGemm", *kNamespace = kOwnNamespace; };
struct EdgeInt4 { static constexpr char const *kName = "Int4GroupwiseGemmPlugin", *kNamespace = ""; };

// Inputs: x [..., K], weights int8 [N / 2, K] in NVIDIA's packing, scales [K / 128, N]. Output: [..., N].
template <typename Name> class Int4Gemm : public Layer<Int4Gemm<Name>> {
  public:
    static constexpr char const *kName = Name::kName, *kNamespace = Name::kNamespace;

    Int4Gemm() = default;
    Int4Gemm(Int4Gemm const &other) : Layer<Int4Gemm>(), n_(other.n_), k_(other.k_), group_(other.group_) {}

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
    nvinfer1::DataType output_type(int32_t, nvinfer1::DataType const *inputs) const { return inputs[0]; }
    nvinfer1::DimsExprs output_shape(int32_t, nvinfer1::DimsExprs const *inputs, nvinfer1::IExprBuilder &builder) const {
        nvinfer1::DimsExprs shape = inputs[0];
        shape.d[shape.nbDims - 1] = builder.constant(n_);
        return shape;
    }
    bool supports(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors) const {
        nvinfer1::DataType const type = tensors[position].desc.type;
        if (position == 1) return type == nvinfer1::DataType::kINT8;
        return position == 0 ? is_activation(type) : type == tensors[0].desc.type;
    }
    // The weight in 16 bits and cuBLAS's own memory, if there can be so many rows.
    size_t workspace(nvinfer1::DynamicPluginTensorDesc const *inputs) const {
        if (is_packed_faster(rows_of(inputs[0].max)) || !DenseProduct::get()) return 0;
        return matrix_bytes() + DenseProduct::kWorkspace;
    }
    char const *prepare(nvinfer1::PluginTensorDesc const *inputs) {
        DenseProduct *const product = is_packed_faster(rows_of(inputs[0].dims)) ? nullptr : DenseProduct::get();
        return product == nullptr ? nullptr : product->prepare();
    }
    char const *run(nvinfer1::PluginTensorDesc const *tensors, void const *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) {
        int64_t const rows = rows_of(tensors[0].dims);
        if (tensors[0].dims.d[tensors[0].dims.nbDims - 1] != k_) return "x is not gemm_k wide";
        int32_t const type = type_code(tensors[0].type);
        DenseProduct *const product = is_packed_faster(rows) || workspace == nullptr ? nullptr : DenseProduct::get();
        if (product != nullptr) {
            tt_int4_args const args = {nullptr, inputs[1], inputs[2], workspace, 0, n_, k_, group_, type};
            if (char const *text = tt_int4_dequantize(&args, stream)) return text;
            void *const rest = static_cast<char *>(workspace) + matrix_bytes();
            return product->run(inputs[0], workspace, outputs[0], rows, n_, k_, type, rest, stream);
        }
        for (int64_t row = 0; row < rows; row += 64) {  // without cuBLAS, 64 rows at a time
            int32_t const count = static_cast<int32_t>(rows - row < 64 ? rows - row : 64);
            tt_int4_args const args = {static_cast<char const *>(inputs[0]) + 2 * row * k_, inputs[1], inputs[2],
                                       static_cast<char *>(outputs[0]) + 2 * row * n_, count, n_, k_, group_, type};
            if (char const *text = tt_int4_gemm(&args, stream)) return text;
        }
        return nullptr;
    }

  private:
    static int64_t rows_of(nvinfer1::Dims const &dims) {
        int64_t rows = 1;
        for (int32_t axis = 0; axis < dims.nbDims - 1; ++axis) rows *= dims.d[axis];
        return rows;
    }
    // Measured on an H200; int4_packed_is_faster() of tensors.py is the same.
    bool is_packed_faster(int64_t rows) const { return rows <= 32 || (rows <= 64 && int64_t{n_} * k_ >= 1 << 23); }
    size_t matrix_bytes() const { return (static_cast<size_t>(n_) * k_ * 2 + 255) / 256 * 256; }

    int32_t n_ = 0, k_ = 0, group_ = 0;
};

}  // namespace tt_edge
