// Vectors of the widest registers that a translation unit is compiled for, in the vector extension of GCC and Clang.
// The same source is compiled for every instruction set. Maps are stored as float, double, bfloat16 or float16; sums of
// the last two are kept in float.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace scse {

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int64_t VECTOR_BYTES = 32;
#else
constexpr int64_t VECTOR_BYTES = 16;
#endif

template <class A> struct Lanes {
    typedef A type __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int64_t count = VECTOR_BYTES / sizeof(A);
};
template <class A> using Vec = typename Lanes<A>::type;
template <class A> constexpr int64_t lanes = Lanes<A>::count;

using Bits = Vec<uint32_t>;
typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2)));

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// The type of sums over a map of type S.
template <class S> struct Sum {
    using type = float;
};
template <> struct Sum<double> {
    using type = double;
};
template <class S> using Acc = typename Sum<S>::type;

template <class To, class From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class A> Vec<A> spread(A value) { return value - Vec<A>{}; }

// ---- conversion from the type of a map to the type of its sums, and back

inline Vec<float> widened(Vec<float> v, float) { return v; }
inline Vec<double> widened(Vec<double> v, double) { return v; }
inline Vec<float> widened(Halves v, bfloat16) { return bits_as<Vec<float>>(__builtin_convertvector(v, Bits) << 16); }
inline Vec<float> widened(Halves v, float16) {
    const Bits half = __builtin_convertvector(v, Bits), magnitude = half & 0x7fff;
    // the exponents' biases differ by 112; the product also makes subnormal halves normal
    const Vec<float> finite = bits_as<Vec<float>>(magnitude << 13) * 0x1p112f;
    const Bits special = (Bits)(magnitude >= 0x7c00) & 0x7f800000u;
    return bits_as<Vec<float>>(bits_as<Bits>(finite) | special | (half & 0x8000) << 16);
}

inline Vec<float> narrowed(Vec<float> v, float) { return v; }
inline Vec<double> narrowed(Vec<double> v, double) { return v; }
inline Halves narrowed(Vec<float> v, bfloat16) {
    const Bits bits = bits_as<Bits>(v);
    const Bits nearest_even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector(v == v ? nearest_even : Bits{} + 0x7fc0, Halves);
}
inline Halves narrowed(Vec<float> v, float16) {
    const Bits bits = bits_as<Bits>(v), magnitude = bits & 0x7fffffff;
    const Bits normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // adding 0.5 leaves a subnormal half, rounded by the processor, in the lowest bits
    const Bits subnormal = bits_as<Bits>(bits_as<Vec<float>>(magnitude) + 0.5f) - (126u << 23);
    const Bits special = magnitude > 0x7f800000 ? Bits{} + 0x7e00 : Bits{} + 0x7c00;
    const Bits half = magnitude < (113u << 23) ? subnormal : magnitude < (143u << 23) ? normal : special;
    return __builtin_convertvector(half | (bits >> 16 & 0x8000), Halves);
}

template <class S> struct Stored {
    using type = Halves;
};
template <> struct Stored<float> {
    using type = Vec<float>;
};
template <> struct Stored<double> {
    using type = Vec<double>;
};

// ---- memory: whole vectors, and partial vectors at the end of a row

template <class S> Vec<Acc<S>> load(const S *from) {
    typename Stored<S>::type v;
    std::memcpy(&v, from, sizeof v);
    return widened(v, S{});
}

template <class S> Vec<Acc<S>> load(const S *from, int64_t count) {
    typename Stored<S>::type v{};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const auto mask = (1u << count) - 1;
    if constexpr (sizeof(S) == 8)
        v = _mm512_maskz_loadu_pd(mask, from);
    else if constexpr (sizeof(S) == 4)
        v = _mm512_maskz_loadu_ps(mask, from);
    else
        v = bits_as<Halves>(_mm256_maskz_loadu_epi16(mask, from));
#else
    std::memcpy(&v, from, count * sizeof(S));
#endif
    return widened(v, S{});
}

template <class S> void store(S *to, Vec<Acc<S>> value) {
    const auto v = narrowed(value, S{});
    std::memcpy(to, &v, sizeof v);
}

template <class S> void store(S *to, Vec<Acc<S>> value, int64_t count) {
    const auto v = narrowed(value, S{});
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const auto mask = (1u << count) - 1;
    if constexpr (sizeof(S) == 8)
        _mm512_mask_storeu_pd(to, mask, v);
    else if constexpr (sizeof(S) == 4)
        _mm512_mask_storeu_ps(to, mask, v);
    else
        _mm256_mask_storeu_epi16(to, mask, bits_as<__m256i>(v));
#else
    std::memcpy(to, &v, count * sizeof(S));
#endif
}

// Writes to aligned memory without using the caches. A map that exceeds the caches is then not read before the write.
template <class S> void stream(S *to, Vec<Acc<S>> value) {
    const auto v = narrowed(value, S{});
#if defined(__AVX512F__)
    if constexpr (sizeof v == 64)
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to), bits_as<__m512i>(v));
    else
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to), bits_as<__m256i>(v));
#elif defined(__AVX2__)
    if constexpr (sizeof v == 32)
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to), bits_as<__m256i>(v));
    else
        _mm_stream_si128(reinterpret_cast<__m128i *>(to), bits_as<__m128i>(v));
#elif defined(__x86_64__)
    if constexpr (sizeof v == 16)
        _mm_stream_si128(reinterpret_cast<__m128i *>(to), bits_as<__m128i>(v));
    else
        std::memcpy(to, &v, sizeof v);
#else
    std::memcpy(to, &v, sizeof v);
#endif
}

// Prefetches the data one page ahead, because the hardware prefetcher does not cross the end of a page.
template <class S> void expect_soon(const S *now) {
    __builtin_prefetch(reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(now) + 4096));
}

inline void finish_streams() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// ---- sums over lanes

template <class V, std::size_t... I> V pair_sums(V a, V b, std::index_sequence<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
#else // GCC has __builtin_shufflevector since version 12
    using Index = decltype(a < b);
    return __builtin_shuffle(a, b, Index{(2 * I)...}) + __builtin_shuffle(a, b, Index{(2 * I + 1)...});
#endif
}

// Sets rows[0] to the vector of the sums of rows[0], rows[1], ..., and returns it.
template <class A> Vec<A> row_sums(Vec<A> (&rows)[lanes<A>]) {
    for (int64_t left = lanes<A> / 2; left > 0; left /= 2)
        for (int64_t i = 0; i < left; ++i)
            rows[i] = pair_sums(rows[2 * i], rows[2 * i + 1], std::make_index_sequence<lanes<A>>{});
    return rows[0];
}

template <class A> A lane_sum(Vec<A> v) {
    for (int64_t left = lanes<A> / 2; left > 0; left /= 2) v = pair_sums(v, v, std::make_index_sequence<lanes<A>>{});
    return v[0];
}

// ---- functions

// exp(x) = 2^k e^r with |r| <= ln(2) / 2, and the Taylor polynomial of degree 7 for e^r. Relative error below 2e-7.
inline Vec<float> exponential(Vec<float> x) {
    x = x < -87.f ? spread(-87.f) : x > 88.f ? spread(88.f) : x;
    constexpr float ROUND = 0x1.8p23f; // adding and subtracting it rounds to an integer
    const Vec<float> shifted = x * 1.44269504f + ROUND, k = shifted - ROUND;
    const Vec<float> r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    Vec<float> p = spread(1.f / 5040);
    for (float factor : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f}) p = p * r + factor;
    return p * bits_as<Vec<float>>((bits_as<Bits>(shifted) + 127) << 23);
}

inline Vec<double> exponential(Vec<double> x) {
    for (int64_t i = 0; i < lanes<double>; ++i) x[i] = std::exp(x[i]);
    return x;
}

template <class A> Vec<A> sigmoid(Vec<A> x) { return A(1) / (A(1) + exponential(-x)); }

template <class A> A sigmoid(A x) { return A(1) / (A(1) + std::exp(-x)); }

template <class A> A dot(const A *a, const A *b, int64_t count) {
    Vec<A> sum{};
    int64_t i = 0;
    for (; i + lanes<A> <= count; i += lanes<A>) sum += load(a + i) * load(b + i);
    if (i < count) sum += load(a + i, count - i) * load(b + i, count - i);
    return lane_sum<A>(sum);
}

// to += factor * from
template <class A> void add_scaled(A *to, A factor, const A *from, int64_t count) {
    int64_t i = 0;
    for (; i + lanes<A> <= count; i += lanes<A>) store(to + i, load(to + i) + factor * load(from + i));
    if (i < count) store(to + i, load(to + i, count - i) + factor * load(from + i, count - i), count - i);
}

} // namespace scse
