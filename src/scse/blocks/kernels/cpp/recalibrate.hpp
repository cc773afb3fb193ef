// The C interface of the kernels: one structure of plain pointers, mirrored in library.py. The numbers of the enums are
// mirrored in fused.py.

#pragma once

#include <cstdint>

#if defined(_WIN32)
#define SCSE_EXPORT extern "C" __declspec(dllexport)
#else
#define SCSE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace scse {

enum class Kind : int32_t { cse, sse, add, max, multiply };
enum class Activation : int32_t { relu, silu, leaky_relu };
enum class Gate : int32_t { sigmoid, hard_sigmoid, relu };
enum class Storage : int32_t { float32, float64, bfloat16, float16 };

// Arguments of one call. All arrays are dense. Maps have the type `storage`; all other arrays have the type of the
// sums, which is double for float64 and float otherwise.
struct Call {
    int64_t samples, channels, pixels, hidden;
    Kind kind;
    Activation activation;
    Gate gate;
    Storage storage;
    int32_t channels_last; // 1: maps are (samples, pixels, channels); 0: maps are (samples, channels, pixels)
    int32_t threads;
    double scale;

    const void *map;
    const void *squeeze_weight, *squeeze_bias; // (hidden, channels), (hidden) or null
    const void *excite_weight, *excite_bias;   // (channels, hidden), (channels) or null
    const void *project_weight, *project_bias; // (channels), (1) or null

    // written by the forward pass, read by the backward pass
    void *excitation;   // (samples, channels + hidden + channels): means, hidden layer before its activation, gates
    void *spatial_gate; // (samples, pixels)

    void *output; // forward pass only

    // backward pass only; the gradient of a null bias is null, and `map_grad` may be null
    const void *output_grad;
    void *map_grad;
    void *squeeze_weight_grad, *squeeze_bias_grad, *excite_weight_grad, *excite_bias_grad;
    void *project_weight_grad, *project_bias_grad;
};

} // namespace scse
