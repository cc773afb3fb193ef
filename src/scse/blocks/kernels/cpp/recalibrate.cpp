// Recalibration with cSE, sSE and scSE gates, as defined in formulas.py, with the fewest possible reads of a map.
//
// Forward: one pass computes the sums of the channels and the projections of the pixels, then the two small layers are
// computed, and a second pass writes the output. Backward: one pass computes the gradients of all gates, then follow
// the layers, and a second pass writes the gradient of the map. A pass processes tiles of pixels that fit into the
// cache of a core. Samples are processed in the smallest groups that keep all threads busy, so that the second pass
// reads from the caches. Every tile has its own partial sums, which are added in the order of the tiles: results are
// bit-identical for any number of threads and any size of the groups.

#include "recalibrate.hpp"
#include "simd.hpp"

#include <cstdlib>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace scse {
namespace {

constexpr int64_t TILE_VALUES = 1 << 16;    // map values per tile: 256 KiB of float
constexpr int64_t GROUP_VALUES = 1 << 17;   // map values per group and thread
constexpr int64_t THREAD_VALUES = 1 << 14;  // smallest number of map values per thread
constexpr int64_t STREAM_BYTES = 12 << 20;  // size from which maps are written without using the caches
constexpr int64_t ROWS = 8;                 // channels that are read at the same time

constexpr bool squeezes_space(Kind kind) { return kind != Kind::sse; }
constexpr bool squeezes_channels(Kind kind) { return kind != Kind::cse; }
constexpr bool is_linear(Kind kind) { return kind != Kind::max && kind != Kind::multiply; }

// ---- formulas for one vector: map x, channel gate c, spatial gate s, output gradient g

template <Kind kind, class V> V joined(V x, V c, V s) {
    if constexpr (kind == Kind::cse) return x * c;
    if constexpr (kind == Kind::sse) return x * s;
    if constexpr (kind == Kind::add) return x * (c + s);
    const V by_channel = x * c, by_pixel = x * s;
    if constexpr (kind == Kind::max) {
        const V larger = by_channel > by_pixel ? by_channel : by_pixel;
        return by_channel != by_channel ? by_channel : larger; // NaN propagates, as in torch
    }
    return by_channel * by_pixel;
}

// d output / d x for fixed gates
template <Kind kind, class V> V slope(V x, V c, V s) {
    if constexpr (kind == Kind::cse) return c;
    if constexpr (kind == Kind::sse) return s;
    if constexpr (kind == Kind::add) return c + s;
    if constexpr (kind == Kind::multiply) return 2 * x * c * s;
    const V by_channel = x * c, by_pixel = x * s, half = (c + s) / 2; // ties share the gradient, as in torch
    return by_channel > by_pixel ? c : by_channel < by_pixel ? s : half;
}

// Adds g * d output / d c and g * d output / d s.
template <Kind kind, class V> void pull(V g, V x, V c, V s, V &channel, V &pixel) {
    const V product = g * x;
    if constexpr (kind == Kind::max) {
        const V by_channel = x * c, by_pixel = x * s, half = product / 2;
        const V share = by_channel > by_pixel ? product : by_channel < by_pixel ? V{} : half;
        channel += share;
        pixel += product - share;
    } else if constexpr (kind == Kind::multiply) {
        channel += product * x * s;
        pixel += product * x * c;
    } else {
        if constexpr (squeezes_space(kind)) channel += product;
        if constexpr (squeezes_channels(kind)) pixel += product;
    }
}

// ---- formulas of the two layers of cSE

template <class A> A activated(Activation activation, A x) {
    if (activation == Activation::silu) return x * sigmoid(x);
    return x > 0 || x != x ? x : activation == Activation::leaky_relu ? A(0.01) * x : A(0);
}

template <class A> A activation_slope(Activation activation, A x) {
    if (activation == Activation::silu) {
        const A s = sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    return x > 0 ? A(1) : activation == Activation::leaky_relu ? A(0.01) : A(0);
}

template <class A> A gated(Gate gate, A x) {
    if (gate == Gate::sigmoid) return sigmoid(x);
    if (gate == Gate::relu) return x > 0 || x != x ? x : A(0);
    const A line = x / 6 + A(0.5);
    return line < 0 ? A(0) : line > 1 ? A(1) : line;
}

// d gate / d x, computed from the value of the gate
template <class A> A gate_slope(Gate gate, A value) {
    if (gate == Gate::sigmoid) return value * (1 - value);
    if (gate == Gate::relu) return value > 0 ? A(1) : A(0);
    return value > 0 && value < 1 ? A(1) / 6 : A(0);
}

// ---- memory and threads

template <class A> constexpr int64_t padded(int64_t count) { return (count + lanes<A> - 1) / lanes<A> * lanes<A>; }

// Zeroed memory, aligned to vectors. Rows that are padded to whole vectors can be read and written in whole vectors.
template <class A> class Buffer {
  public:
    explicit Buffer(int64_t count)
        : bytes_(padded<char>(count * int64_t(sizeof(A))) + 64), memory_(std::calloc(1, bytes_)),
          first_(reinterpret_cast<A *>((reinterpret_cast<uintptr_t>(memory_) + 63) / 64 * 64)) {}
    ~Buffer() { std::free(memory_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    bool missing() const { return memory_ == nullptr; }
    A *at(int64_t index) const { return first_ + index; }

  private:
    std::size_t bytes_;
    void *memory_;
    A *first_;
};

// Ways to read and write a vector of a row: whole, written without using the caches, or partial at the end of a row.
struct Whole {
    template <class T> auto read(const T *from) const { return load(from); }
    template <class T> void write(T *to, Vec<Acc<T>> value) const { store(to, value); }
};
struct Streamed : Whole {
    template <class T> void write(T *to, Vec<Acc<T>> value) const { stream(to, value); }
};
struct Part {
    int64_t count;
    template <class T> auto read(const T *from) const { return load(from, count); }
    template <class T> void write(T *to, Vec<Acc<T>> value) const { store(to, value, count); }
};

template <class A, class Body> void over_row(int64_t count, Body body) {
    int64_t i = 0;
    for (; i + lanes<A> <= count; i += lanes<A>) body(Whole{}, i);
    if (i < count) body(Part{count - i}, i);
}

struct Range {
    int64_t begin, end;
};

// The part of `count` items that thread `rank` of `size` processes, in multiples of `step`.
Range part(int64_t count, int64_t step, int64_t rank, int64_t size) {
    const int64_t steps = (count + step - 1) / step;
    const int64_t begin = steps * rank / size * step, end = steps * (rank + 1) / size * step;
    return {begin < count ? begin : count, end < count ? end : count};
}

int rank_of_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int threads_running() {
#if defined(_OPENMP)
    return omp_get_num_threads();
#else
    return 1;
#endif
}

// ---- one call

template <Kind kind, class S, bool last> class Recalibration {
    using A = Acc<S>;
    using V = Vec<A>;
    static constexpr int64_t L = lanes<A>;

  public:
    Recalibration(const Call &call, bool backward)
        : a(call), C(call.channels), P(call.pixels), H(squeezes_space(kind) ? call.hidden : 0), width(padded<A>(C)),
          hidden_width(padded<A>(H)), tile(tile_pixels(C)), tiles((P + tile - 1) / tile), threads(thread_count(call)),
          group(group_samples(call, threads)), streams(can_stream(call, backward)), partials(group * tiles * width),
          weight(width), pixels(squeezes_channels(kind) ? group * tiles * tile : 0),
          own(threads * group * (width + hidden_width)), logits(backward ? a.samples * width : 0),
          means(backward ? group * width : 0), hidden(backward ? a.samples * hidden_width : 0),
          weights(backward ? group * tiles * width : 0), biases(backward ? group * tiles : 0) {
        if constexpr (squeezes_channels(kind))
            if (!out_of_memory()) std::memcpy(weight.at(0), a.project_weight, C * sizeof(A));
    }

    bool out_of_memory() const {
        return partials.missing() || weight.missing() || pixels.missing() || own.missing() || logits.missing() ||
               means.missing() || hidden.missing() || weights.missing() || biases.missing();
    }

    void forward() const {
        in_groups([&](int64_t first, int64_t count, Range mine, int64_t rank, int64_t size) {
            for (int64_t t = mine.begin; t < mine.end; ++t) {
                squeeze(first, t);
                if constexpr (!squeezes_space(kind)) write_output(first, t);
            }
            if constexpr (squeezes_space(kind)) {
#pragma omp barrier
                excite(first, count, rank, size);
                // reverse order, because the tiles that were read last are still in the caches
                for (int64_t t = mine.end; t-- > mine.begin;) write_output(first, t);
            }
        });
    }

    void backward() const {
        clear_layer_grads();
        in_groups([&](int64_t first, int64_t count, Range mine, int64_t rank, int64_t size) {
            for (int64_t t = mine.begin; t < mine.end; ++t) {
                pull_gates(first, t);
                if constexpr (!squeezes_space(kind)) write_map_grad(first, t);
            }
#pragma omp barrier
            if constexpr (squeezes_channels(kind)) add_projection_grads(count, rank, size);
            if constexpr (squeezes_space(kind)) {
                excite_backward(first, count, rank, size);
                for (int64_t t = mine.end; t-- > mine.begin;) write_map_grad(first, t);
            }
        });
        if constexpr (squeezes_space(kind)) add_layer_grads();
    }

  private:
    // Runs `work` in all threads on one group of samples after the other. The tiles of a group are distributed over
    // the threads. The last samples come first, because they are still in the caches after the map was written.
    template <class Work> void in_groups(Work work) const {
#pragma omp parallel num_threads(threads)
        {
            const int64_t rank = rank_of_thread(), size = threads_running();
            for (int64_t end = a.samples; end > 0; end -= group) {
                const int64_t first = end > group ? end - group : 0, count = end - first;
                work(first, count, part(count * tiles, 1, rank, size), rank, size);
#pragma omp barrier
            }
            finish_streams();
        }
    }

    // ---- sizes

    static int64_t tile_pixels(int64_t channels) {
        const int64_t pixels = TILE_VALUES / channels / 64 * 64;
        return pixels < 64 ? 64 : pixels > 4096 ? 4096 : pixels;
    }

    static int thread_count(const Call &call) {
        const int64_t useful = call.samples * call.channels * call.pixels / THREAD_VALUES;
        return int(useful < 1 ? 1 : useful < call.threads ? useful : call.threads);
    }

    static int64_t group_samples(const Call &call, int64_t threads) {
        const int64_t samples = threads * GROUP_VALUES / (call.channels * call.pixels);
        return samples < 1 ? 1 : samples < call.samples ? samples : call.samples;
    }

    static bool can_stream(const Call &call, bool backward) {
        const auto written = reinterpret_cast<uintptr_t>(backward ? call.map_grad : call.output);
        const int64_t row = (last ? call.channels : call.pixels) * sizeof(S);
        return row * (last ? call.pixels : call.channels) * call.samples >= STREAM_BYTES &&
               written % VECTOR_BYTES == 0 && row % VECTOR_BYTES == 0;
    }

    // ---- addresses; t is the index of a tile in a group

    int64_t tile_begin(int64_t t) const { return t % tiles * tile; }
    int64_t tile_size(int64_t t) const { return P - tile_begin(t) < tile ? P - tile_begin(t) : tile; }
    int64_t offset(int64_t first, int64_t t) const {
        return (first + t / tiles) * C * P + tile_begin(t) * (last ? C : 1);
    }

    const S *map() const { return static_cast<const S *>(a.map); }
    const S *output_grad() const { return static_cast<const S *>(a.output_grad); }
    const A *layer(const void *values) const { return static_cast<const A *>(values); }
    A *excitation(int64_t n) const { return static_cast<A *>(a.excitation) + n * (2 * C + H); }
    A *mean_row(int64_t n) const { return excitation(n); }
    A *hidden_row(int64_t n) const { return excitation(n) + C; }
    A *gate_row(int64_t n) const { return excitation(n) + C + H; }
    A *spatial_row(int64_t first, int64_t t) const {
        return static_cast<A *>(a.spatial_gate) + (first + t / tiles) * P + tile_begin(t);
    }
    A *pixel_row(int64_t t) const { return pixels.at(t * tile); }
    A *partial_row(int64_t t) const { return partials.at(t * width); }
    A *own_means(int64_t rank, int64_t n) const { return own.at((rank * group + n) * (width + hidden_width)); }
    A *own_hidden(int64_t rank, int64_t n) const { return own_means(rank, n) + width; }

    // ---- forward, first pass: sums of channels, projections and gates of pixels

    void squeeze(int64_t first, int64_t t) const {
        const S *x = map() + offset(first, t);
        const int64_t count = tile_size(t);
        A *projected = pixel_row(t), *sums = partial_row(t);
        if constexpr (last) {
            squeeze_columns(x, count, sums, projected);
        } else {
            if constexpr (squeezes_channels(kind)) std::memset(projected, 0, tile * sizeof(A));
            int64_t c = 0;
            for (; c + ROWS <= C; c += ROWS) squeeze_rows<ROWS>(x + c * P, count, c, sums, projected);
            for (; c < C; ++c) squeeze_rows<1>(x + c * P, count, c, sums, projected);
        }
        if constexpr (squeezes_channels(kind)) {
            const A bias = a.project_bias ? *layer(a.project_bias) : A(0);
            for (int64_t i = 0; i < count; i += L)
                store(projected + i, A(a.scale) * sigmoid<A>(load(projected + i) + bias));
            std::memcpy(spatial_row(first, t), projected, count * sizeof(A));
        }
    }

    template <int64_t rows> void squeeze_rows(const S *x, int64_t count, int64_t c, A *sums, A *projected) const {
        V sum[rows] = {};
        over_row<A>(count, [&](auto io, int64_t i) {
            V projection = squeezes_channels(kind) ? load(projected + i) : V{};
            for (int64_t k = 0; k < rows; ++k) {
                const V value = io.read(x + k * P + i);
                if constexpr (squeezes_space(kind)) sum[k] += value;
                if constexpr (squeezes_channels(kind)) projection += *weight.at(c + k) * value;
            }
            if constexpr (squeezes_channels(kind)) store(projected + i, projection);
        });
        if constexpr (squeezes_space(kind))
            for (int64_t k = 0; k < rows; ++k) sums[c + k] = lane_sum<A>(sum[k]);
    }

    // Channels last: processes as many pixels at a time as a vector has lanes, so that their projections fill a vector.
    void squeeze_columns(const S *x, int64_t count, A *sums, A *projected) const {
        if constexpr (squeezes_space(kind)) std::memset(sums, 0, width * sizeof(A));
        for (int64_t i = 0; i < count; i += L) {
            const int64_t here = count - i < L ? count - i : L;
            V projection[L] = {};
            const auto step = [&](int64_t c, int64_t k, V value, V &sum) {
                if constexpr (squeezes_space(kind)) sum += value;
                if constexpr (squeezes_channels(kind)) projection[k] += load(weight.at(c)) * value;
            };
            for (int64_t c = 0; c < C; c += L) {
                const S *from = x + i * C + c;
                V sum = load(sums + c);
                if (c + L <= C && here == L)
                    for (int64_t k = 0; k < L; ++k) {
                        expect_soon(from + k * C);
                        step(c, k, load(from + k * C), sum);
                    }
                else
                    for (int64_t k = 0; k < here; ++k) step(c, k, load_up_to(from + k * C, C - c), sum);
                store(sums + c, sum);
            }
            if constexpr (squeezes_channels(kind)) store(projected + i, row_sums<A>(projection));
        }
    }

    template <class T> static V load_up_to(const T *from, int64_t left) { return left < L ? load(from, left) : load(from); }

    // ---- the layers of cSE: means, hidden layer, gates of a group; rows are shared out to the threads

    void excite(int64_t first, int64_t count, int64_t rank, int64_t size) const {
        for (int64_t n = 0; n < count; ++n) {
            A *mean = own_means(rank, n);
            add_tiles(partials.at(n * tiles * width), mean, 0, C);
            for (int64_t c = 0; c < C; ++c) mean[c] /= A(P);
            if (rank == 0) std::memcpy(mean_row(first + n), mean, C * sizeof(A));
        }
        const Range rows = part(H, 1, rank, size);
        for (int64_t j = rows.begin; j < rows.end; ++j)
            for (int64_t n = 0; n < count; ++n)
                hidden_row(first + n)[j] = dot(layer(a.squeeze_weight) + j * C, own_means(rank, n), C) +
                                           (a.squeeze_bias ? layer(a.squeeze_bias)[j] : A(0));
#pragma omp barrier
        for (int64_t n = 0; n < count; ++n)
            for (int64_t j = 0; j < H; ++j) own_hidden(rank, n)[j] = activated(a.activation, hidden_row(first + n)[j]);
        const Range channels = part(C, 1, rank, size);
        for (int64_t c = channels.begin; c < channels.end; ++c)
            for (int64_t n = 0; n < count; ++n) {
                const A logit = dot(layer(a.excite_weight) + c * H, own_hidden(rank, n), H) +
                                (a.excite_bias ? layer(a.excite_bias)[c] : A(0));
                gate_row(first + n)[c] = A(a.scale) * gated(a.gate, logit);
            }
#pragma omp barrier
    }

    // Sums over the tiles of a sample, in the order of the tiles, for the channels from `begin` to `end`.
    void add_tiles(const A *rows, A *sums, int64_t begin, int64_t end) const {
        for (int64_t c = begin; c < end; ++c) sums[c] = rows[c];
        for (int64_t k = 1; k < tiles; ++k) add_scaled(sums + begin, A(1), rows + k * width + begin, end - begin);
    }

    // ---- forward, second pass

    void write_output(int64_t first, int64_t t) const {
        const S *x = map() + offset(first, t);
        S *y = static_cast<S *>(a.output) + offset(first, t);
        over_rows(t, [&](int64_t row) {
            const auto c = by_channel<squeezes_space(kind)>(gate_row(first + t / tiles), row);
            const auto s = by_pixel(pixel_row(t), row);
            const int64_t start = row * (last ? C : P);
            return [=](auto io, int64_t i) {
                io.write(y + start + i, joined<kind>(io.read(x + start + i), c(io, i), s(io, i)));
            };
        });
    }

    // Runs body_of(row)(io, i) on all vectors of a tile. A row of memory is a channel or, for channels last, a pixel.
    template <class BodyOf> void over_rows(int64_t t, BodyOf body_of) const {
        const int64_t rows = last ? tile_size(t) : C, count = last ? C : tile_size(t);
        for (int64_t row = 0; row < rows; ++row) {
            const auto body = body_of(row);
            if (!streams)
                over_row<A>(count, body);
            else
                for (int64_t i = 0; i < count; i += L) body(Streamed{}, i);
        }
    }

    // Functions that return the values of channels, or of pixels, as vectors along a row.
    template <bool used> static auto by_channel(const A *values, int64_t row) {
        if constexpr (!used)
            return [](auto, int64_t) { return V{}; };
        else if constexpr (last)
            return [=](auto io, int64_t i) { return io.read(values + i); };
        else
            return [value = spread(values[row])](auto, int64_t) { return value; };
    }

    static auto by_pixel(const A *values, int64_t row) {
        if constexpr (!squeezes_channels(kind))
            return [](auto, int64_t) { return V{}; };
        else if constexpr (last)
            return [value = spread(values[row])](auto, int64_t) { return value; };
        else
            return [=](auto io, int64_t i) { return io.read(values + i); };
    }

    // ---- backward, first pass: gradients of the gates and of the projection

    void pull_gates(int64_t first, int64_t t) const {
        const S *x = map() + offset(first, t), *g = output_grad() + offset(first, t);
        const int64_t count = tile_size(t);
        A *pixel = pixel_row(t), *sums = partial_row(t);
        const A *gate = squeezes_space(kind) ? gate_row(first + t / tiles) : nullptr;
        const A *spatial = squeezes_channels(kind) ? spatial_row(first, t) : nullptr;
        if constexpr (last) {
            pull_columns(x, g, count, gate, spatial, t, sums, pixel);
        } else {
            if constexpr (squeezes_channels(kind)) std::memset(pixel, 0, tile * sizeof(A));
            int64_t c = 0;
            for (; c + ROWS / 2 <= C; c += ROWS / 2) pull_rows<ROWS / 2>(x, g, count, gate, spatial, c, sums, pixel);
            for (; c < C; ++c) pull_rows<1>(x, g, count, gate, spatial, c, sums, pixel);
            if constexpr (squeezes_channels(kind)) {
                V total{};
                for (int64_t i = 0; i < count; i += L) total += through_spatial_gate(spatial, pixel, i, count);
                *biases.at(t) = lane_sum<A>(total);
                for (c = 0; c + ROWS <= C; c += ROWS) project_back<ROWS>(x, count, c, pixel, t);
                for (; c < C; ++c) project_back<1>(x, count, c, pixel, t);
            }
        }
    }

    template <int64_t rows>
    void pull_rows(const S *x, const S *g, int64_t count, const A *gate, const A *spatial, int64_t c, A *sums,
                   A *pixel) const {
        V sum[rows] = {};
        over_row<A>(count, [&](auto io, int64_t i) {
            V at_pixel = squeezes_channels(kind) ? load(pixel + i) : V{};
            const V s = squeezes_channels(kind) ? io.read(spatial + i) : V{};
            for (int64_t k = 0; k < rows; ++k) {
                const int64_t at = (c + k) * P + i;
                const V channel = squeezes_space(kind) ? spread(gate[c + k]) : V{};
                pull<kind>(io.read(g + at), io.read(x + at), channel, s, sum[k], at_pixel);
            }
            if constexpr (squeezes_channels(kind)) store(pixel + i, at_pixel);
        });
        if constexpr (squeezes_space(kind))
            for (int64_t k = 0; k < rows; ++k) sums[c + k] = lane_sum<A>(sum[k]);
    }

    // Replaces the gradients of L spatial gates by the gradients before the sigmoid, and returns them. Beyond the end
    // of the tile they are 0.
    V through_spatial_gate(const A *spatial, A *pixel, int64_t i, int64_t count) const {
        const V s = i + L <= count ? load(spatial + i) : load(spatial + i, count - i);
        const V grad = load(pixel + i) * s * (1 - s / A(a.scale));
        store(pixel + i, grad);
        return grad;
    }

    template <int64_t rows> void project_back(const S *x, int64_t count, int64_t c, const A *pixel, int64_t t) const {
        V sum[rows] = {};
        over_row<A>(count, [&](auto io, int64_t i) {
            const V grad = load(pixel + i);
            for (int64_t k = 0; k < rows; ++k) sum[k] += grad * io.read(x + (c + k) * P + i);
        });
        for (int64_t k = 0; k < rows; ++k) *weights.at(t * width + c + k) = lane_sum<A>(sum[k]);
    }

    void pull_columns(const S *x, const S *g, int64_t count, const A *gate, const A *spatial, int64_t t, A *sums,
                      A *pixel) const {
        A *projection = squeezes_channels(kind) ? weights.at(t * width) : nullptr;
        if constexpr (squeezes_space(kind)) std::memset(sums, 0, width * sizeof(A));
        if constexpr (squeezes_channels(kind)) std::memset(projection, 0, width * sizeof(A));
        V total{};
        for (int64_t i = 0; i < count; i += L) {
            const int64_t here = count - i < L ? count - i : L;
            V at_pixel[L] = {};
            for (int64_t c = 0; c < C; c += L) {
                const int64_t from = i * C + c;
                const V channel = squeezes_space(kind) ? load_up_to(gate + c, C - c) : V{};
                V sum = load(sums + c);
                const auto step = [&](int64_t k, V grad, V value) {
                    const V s = squeezes_channels(kind) && !is_linear(kind) ? spread(spatial[i + k]) : V{};
                    pull<kind>(grad, value, channel, s, sum, at_pixel[k]);
                };
                if (c + L <= C && here == L)
                    for (int64_t k = 0; k < L; ++k) {
                        expect_soon(g + from + k * C);
                        expect_soon(x + from + k * C);
                        step(k, load(g + from + k * C), load(x + from + k * C));
                    }
                else
                    for (int64_t k = 0; k < here; ++k)
                        step(k, load_up_to(g + from + k * C, C - c), load_up_to(x + from + k * C, C - c));
                if constexpr (squeezes_space(kind)) store(sums + c, sum);
            }
            if constexpr (squeezes_channels(kind)) {
                store(pixel + i, row_sums<A>(at_pixel));
                total += through_spatial_gate(spatial, pixel, i, count);
                for (int64_t c = 0; c < C; c += L) {
                    V sum = load(projection + c);
                    for (int64_t k = 0; k < here; ++k) sum += pixel[i + k] * load_up_to(x + (i + k) * C + c, C - c);
                    store(projection + c, sum);
                }
            }
        }
        if constexpr (squeezes_channels(kind)) *biases.at(t) = lane_sum<A>(total);
    }

    // ---- backward of the layers

    void excite_backward(int64_t first, int64_t count, int64_t rank, int64_t size) const {
        for (int64_t n = 0; n < count; ++n) {
            A *grad = own_means(rank, n);
            add_tiles(partials.at(n * tiles * width), grad, 0, C);
            for (int64_t c = 0; c < C; ++c)
                grad[c] *= A(a.scale) * gate_slope(a.gate, gate_row(first + n)[c] / A(a.scale));
            if (rank == 0) std::memcpy(logits.at((first + n) * width), grad, C * sizeof(A));
        }
        const Range rows = part(H, L, rank, size);
        for (int64_t n = 0; n < count; ++n) {
            A *grad = hidden_grad(first + n);
            for (int64_t c = 0; c < C; ++c)
                add_scaled(grad + rows.begin, own_means(rank, n)[c], layer(a.excite_weight) + c * H + rows.begin,
                           rows.end - rows.begin);
            for (int64_t j = rows.begin; j < rows.end; ++j)
                grad[j] *= activation_slope(a.activation, hidden_row(first + n)[j]);
        }
#pragma omp barrier
        const Range columns = part(C, L, rank, size);
        for (int64_t n = 0; n < count; ++n) {
            A *grad = means.at(n * width);
            for (int64_t c = columns.begin; c < columns.end; ++c) grad[c] = A(0);
            for (int64_t j = 0; j < H; ++j)
                add_scaled(grad + columns.begin, hidden_grad(first + n)[j] / A(P),
                           layer(a.squeeze_weight) + j * C + columns.begin, columns.end - columns.begin);
        }
#pragma omp barrier
    }

    A *hidden_grad(int64_t n) const { return hidden.at(n * hidden_width); }

    void add_projection_grads(int64_t count, int64_t rank, int64_t size) const {
        A *grad = static_cast<A *>(a.project_weight_grad);
        const Range channels = part(C, L, rank, size);
        for (int64_t t = count * tiles; t-- > 0;)
            add_scaled(grad + channels.begin, A(1), weights.at(t * width + channels.begin),
                       channels.end - channels.begin);
        if (rank == 0 && a.project_bias_grad)
            for (int64_t t = count * tiles; t-- > 0;) *static_cast<A *>(a.project_bias_grad) += *biases.at(t);
    }

    void clear_layer_grads() const {
        const auto clear = [](void *grad, int64_t count) {
            if (grad) std::memset(grad, 0, count * sizeof(A));
        };
        clear(a.squeeze_weight_grad, H * C);
        clear(a.squeeze_bias_grad, H);
        clear(a.excite_weight_grad, C * H);
        clear(a.excite_bias_grad, C);
        clear(a.project_weight_grad, C);
        clear(a.project_bias_grad, 1);
    }

    void add_layer_grads() const {
#pragma omp parallel num_threads(threads)
        {
            const int64_t rank = rank_of_thread(), size = threads_running();
            add_layer_grads(part(H, 1, rank, size), part(C, 1, rank, size), own_hidden(rank, 0));
        }
    }

    void add_layer_grads(Range rows, Range channels, A *activations) const {
        A *squeeze_weight = static_cast<A *>(a.squeeze_weight_grad), *squeeze_bias = static_cast<A *>(a.squeeze_bias_grad);
        A *excite_weight = static_cast<A *>(a.excite_weight_grad), *excite_bias = static_cast<A *>(a.excite_bias_grad);
        for (int64_t n = 0; n < a.samples; ++n) {
            for (int64_t j = rows.begin; j < rows.end; ++j) {
                add_scaled(squeeze_weight + j * C, hidden_grad(n)[j], mean_row(n), C);
                if (squeeze_bias) squeeze_bias[j] += hidden_grad(n)[j];
            }
            for (int64_t j = 0; j < H; ++j) activations[j] = activated(a.activation, hidden_row(n)[j]);
            for (int64_t c = channels.begin; c < channels.end; ++c) {
                const A grad = *logits.at(n * width + c);
                add_scaled(excite_weight + c * H, grad, activations, H);
                if (excite_bias) excite_bias[c] += grad;
            }
        }
    }

    // ---- backward, second pass

    void write_map_grad(int64_t first, int64_t t) const {
        if (!a.map_grad) return;
        const S *x = map() + offset(first, t), *g = output_grad() + offset(first, t);
        S *dx = static_cast<S *>(a.map_grad) + offset(first, t);
        over_rows(t, [&](int64_t row) {
            const auto c = by_channel<squeezes_space(kind)>(gate_row(first + t / tiles), row);
            const auto mean = by_channel<squeezes_space(kind)>(means.at(t / tiles * width), row);
            const auto w = by_channel<squeezes_channels(kind)>(weight.at(0), row);
            const auto s = by_pixel(squeezes_channels(kind) ? spatial_row(first, t) : nullptr, row);
            const auto projected = by_pixel(pixel_row(t), row);
            const int64_t start = row * (last ? C : P);
            return [=](auto io, int64_t i) {
                const V value = is_linear(kind) ? V{} : io.read(x + start + i);
                const V through_gates = mean(io, i) + w(io, i) * projected(io, i);
                io.write(dx + start + i, io.read(g + start + i) * slope<kind>(value, c(io, i), s(io, i)) + through_gates);
            };
        });
    }

    const Call &a;
    const int64_t C, P, H, width, hidden_width, tile, tiles;
    const int threads;
    const int64_t group;
    const bool streams;
    const Buffer<A> partials, weight, pixels, own;               // for both passes
    const Buffer<A> logits, means, hidden, weights, biases;      // for the backward pass only
};

// ---- dispatch from values to types

template <Kind kind, class S> int run(const Call &call, bool backward) {
    const auto with = [&](auto recalibration) {
        if (recalibration.out_of_memory()) return 1;
        backward ? recalibration.backward() : recalibration.forward();
        return 0;
    };
    return call.channels_last ? with(Recalibration<kind, S, true>(call, backward))
                              : with(Recalibration<kind, S, false>(call, backward));
}

template <Kind kind> int run(const Call &call, bool backward) {
    switch (call.storage) {
    case Storage::float32: return run<kind, float>(call, backward);
    case Storage::float64: return run<kind, double>(call, backward);
    case Storage::bfloat16: return run<kind, bfloat16>(call, backward);
    case Storage::float16: return run<kind, float16>(call, backward);
    }
    return 2;
}

int run(const Call &call, bool backward) {
    switch (call.kind) {
    case Kind::cse: return run<Kind::cse>(call, backward);
    case Kind::sse: return run<Kind::sse>(call, backward);
    case Kind::add: return run<Kind::add>(call, backward);
    case Kind::max: return run<Kind::max>(call, backward);
    case Kind::multiply: return run<Kind::multiply>(call, backward);
    }
    return 2;
}

} // namespace
} // namespace scse

// Return 0, or 1 if memory for the partial sums cannot be allocated.
SCSE_EXPORT int scse_forward(const scse::Call *call) { return scse::run(*call, false); }
SCSE_EXPORT int scse_backward(const scse::Call *call) { return scse::run(*call, true); }

// The size of a call, by which the Python side recognises a library of another version.
SCSE_EXPORT int64_t scse_call_bytes() { return sizeof(scse::Call); }
