// What a ViL sublayer does between its two projections, for inference on a CPU: 3x3 depthwise convolution and SiLU, the
// block-diagonal q, k and v, both gates, the mLSTM cell from a template's memory, the norm of its output, the skip and
// the output gate. The equations are those of models/vil.py and models/mlstm.py; every exponent is at most 0, as there.
//
// PyTorch runs this as some sixty operations that each pass over memory. Here a thread takes one chunk of one head
// through all of them while it lies in its cache:
//
//   1 convolution, SiLU, gates        for each row of the grid
//   2 decays                          for each head
//   3 k, v, what the chunk remembers  for each chunk of each head
//   4 memory before each chunk        for each head, a part of its rows
//   5 q, h, norm, skip, output gate   for each chunk of each head
//
// Shapes: B batch, S tokens, H = 4 heads, E inner width, K = E / H head width, N chunks of L tokens. s counts tokens in
// scan order, which for odd sublayers runs from the last token to the first; t counts them as they are stored.
//
// Compiled by vil_tracker/native/__init__.py with GCC or Clang for the processor it runs on.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "products.h"

namespace {

constexpr int NEIGHBOURS = 4, GATES = TILE_ROWS / 2;  // of a row that share weights, gates that are summed at once
constexpr int HEADS = 4;
constexpr int BLOCK = 4;  // of the block-diagonal maps
constexpr int L = 64;     // tokens in a chunk; the last chunk may be shorter
constexpr int MEMORY_PARTS = 4;
constexpr int GROUP = 4;  // tokens that share the loads of a map's weights
constexpr float EPSILON = 1e-6f;
constexpr float LARGEST_EXPONENT = 0.9f * 88.722839f;  // of the denominator's floor, as in models/mlstm.py

// Every lane takes the one `shift` further within its block of four.
inline Vec rotate(Vec x, int shift) {
  const IntVec lane = lane_numbers();
  const IntVec from = (lane & ~(BLOCK - 1)) | ((lane + shift) & (BLOCK - 1));
#if defined(__clang__)
  Vec y;
  for (int i = 0; i < LANES; ++i) y[i] = x[from[i]];
  return y;
#else
  return __builtin_shuffle(x, from);
#endif
}

// A block-diagonal map of the LANES channels from e, of several tokens: weight (4, E) holds what multiplies a channel
// itself, the next one of its block, and so on.
template <int TOKENS>
inline void block_map(Vec (&x)[TOKENS], const float* weight, const float* bias, int E, int e) {
  Vec y[TOKENS];
#pragma GCC unroll 16
  for (int i = 0; i < TOKENS; ++i) y[i] = load(bias + e) + load(weight + e) * x[i];
#pragma GCC unroll 3
  for (int shift = 1; shift < BLOCK; ++shift) {
    const Vec by = load(weight + shift * E + e);
#pragma GCC unroll 16
    for (int i = 0; i < TOKENS; ++i) y[i] += by * rotate(x[i], shift);
  }
#pragma GCC unroll 16
  for (int i = 0; i < TOKENS; ++i) x[i] = y[i];
}

}  // namespace

extern "C" {

// Of one sublayer; float32, made once.
struct Weights {
  const float* conv;       // (9, E), row by row of the kernel, for tokens as they are stored
  const float* conv_bias;  // (E)
  const float *q, *k, *v;  // (4, E), see block_map; k is divided by the square root of K
  const float *q_bias, *k_bias, *v_bias;  // (E)
  const float *gate_a, *gate_x;           // (2 H, E), input gates and then forget gates
  const float* gate_bias;                 // (2 H)
  const float *gain, *shift, *skip;       // (E)
  int32_t E;
  int32_t reverse;
  float norm_eps;
};

// Of one call. xm and z are (B, S, E) with `row` elements from token to token, y (B, S, E) is contiguous: float32, or
// bfloat16 if `half`. C (B, H, K, K), n (B, H, K), m (B, H) and the scratch are float32.
struct Call {
  const void *xm, *z;
  void* y;
  const float *C, *n, *m;
  float* scratch;
  int64_t row;
  int32_t B, rows, columns, threads, half;
};

// Number of floats that a thread needs for itself.
int64_t workspace_size(int64_t K) { return 3 * L * K + 2 * L * L + 3 * L; }

// Number of floats that a call needs as scratch.
int64_t scratch_size(int32_t B, int32_t S, int32_t E, int32_t threads) {
  const int64_t K = E / HEADS, N = (S + L - 1) / L, heads = int64_t(B) * HEADS;
  return int64_t(B) * S * E + E + 5 * heads * S + heads * N * (3 * L * K + 2 * K * K + K) + threads * workspace_size(K);
}
}

namespace {

// T is the type of what comes and goes, F that of the factors of the products.
template <typename T, typename F>
class Sublayer {
  using Factor = Factors<F>;
  static constexpr bool WIDE = std::is_same<F, float>::value;

 public:
  Sublayer(const Weights& weights, const Call& call)
      : w(weights), c(call), B(call.B), E(weights.E), S(call.rows * call.columns), K(E / HEADS), N((S + L - 1) / L) {
    const int64_t heads = int64_t(B) * HEADS;
    float* free = call.scratch;
    auto take = [&](int64_t count) {
      float* start = free;
      free += count;
      return start;
    };
    a = take(int64_t(B) * S * E);
    zeros = take(E);
    std::memset(zeros, 0, sizeof(float) * E);
    gates = take(2 * heads * S);
    source = take(heads * S);
    highest = take(heads * S);
    decayed = take(heads * S);
    keys = factors(take(heads * N * L * K));
    keys_right = WIDE ? keys : factors(take(heads * N * L * K));
    values = factors(take(heads * N * L * K));
    memories = take(heads * N * K * K);
    memories_right = WIDE ? nullptr : factors(take(heads * N * K * K));
    normalisers = take(heads * N * K);
    own = take(int64_t(call.threads) * workspace_size(K));
  }

  void run() {
#pragma omp parallel num_threads(c.threads)
    {
#pragma omp for schedule(static)
      for (int item = 0; item < B * c.rows; ++item) convolve(item / c.rows, item % c.rows);
#pragma omp for schedule(static)
      for (int head = 0; head < B * HEADS; ++head) decay(head);
#pragma omp for schedule(static)
      for (int item = 0; item < B * HEADS * N; ++item) remember(item / N, item % N);
#pragma omp for schedule(static)
      for (int item = 0; item < B * HEADS * MEMORY_PARTS; ++item) carry(item / MEMORY_PARTS, item % MEMORY_PARTS);
#pragma omp for schedule(static)
      for (int item = 0; item < B * HEADS * N; ++item) read(item / N, item % N);
    }
  }

 private:
  const Weights& w;
  const Call& c;
  const int B, E, S, K, N;
  float *a;      // (B, S, E)
  float *zeros;  // (E)
  float *gates;  // (B, 2 H, S)
  // (B H, S) in scan order: c = i - b, its running maximum M, and b, the sum of log forget gates since the chunk began
  float *source, *highest, *decayed;
  F *keys, *keys_right;           // (B H, N, K, L) as left and right factor, which in float32 are the same
  F *values, *memories_right;     // (B H, N, L, K) and, before each chunk, (B H, N, K, K): right factors
  float *memories, *normalisers;  // (B H, N, K, K) and (B H, N, K) before each chunk but the first
  float *own;                     // (threads, ...)

  // Stands for tokens that are not there: zeros.
  template <typename Number>
  const Number* nothing() const { return reinterpret_cast<const Number*>(zeros); }

  // The convolution's output for a token of a chunk.
  const float* convolved(int b, int chunk, int i) const {
    return i < length(chunk) ? a + (int64_t(b) * S + stored(chunk * L + i)) * E : zeros;
  }

  static F* factors(float* memory) { return reinterpret_cast<F*>(memory); }

  const T* xm(int b, int t) const { return static_cast<const T*>(c.xm) + (int64_t(b) * S + t) * c.row; }
  const T* z(int b, int t) const { return static_cast<const T*>(c.z) + (int64_t(b) * S + t) * c.row; }
  int stored(int s) const { return w.reverse ? S - 1 - s : s; }
  float* workspace() const { return own + omp_get_thread_num() * workspace_size(K); }
  int length(int chunk) const { return std::min(L, S - chunk * L); }

  // The stabiliser m before a chunk: what the memory there is relative to.
  float before(int head, int chunk) const {
    const int64_t last = int64_t(head) * S + chunk * L - 1;
    return chunk == 0 ? c.m[head] : decayed[last] + highest[last];
  }

  // The convolution, SiLU and gates of a row of the grid.
  void convolve(int b, int row) {
    int column = 0;
    for (; column + NEIGHBOURS <= c.columns; column += NEIGHBOURS) convolve_tokens<NEIGHBOURS>(b, row, column);
    for (; column < c.columns; ++column) convolve_tokens<1>(b, row, column);
  }

  // The same of so many neighbours, which share the loads of the weights.
  template <int TOKENS>
  void convolve_tokens(int b, int row, int column) {
    const int t = row * c.columns + column;
    const T* around[3][TOKENS + 2];
    for (int r = 0; r < 3; ++r) {
      for (int q = 0; q < TOKENS + 2; ++q) {
        const int at_row = row + r - 1, at_column = column + q - 1;
        const bool inside = at_row >= 0 && at_row < c.rows && at_column >= 0 && at_column < c.columns;
        around[r][q] = inside ? xm(b, at_row * c.columns + at_column) : nothing<T>();
      }
    }
    float* out = a + (int64_t(b) * S + t) * E;
    for (int e = 0; e < E; e += LANES) {
      Vec y[TOKENS];
#pragma GCC unroll 4
      for (int i = 0; i < TOKENS; ++i) y[i] = load(w.conv_bias + e);
#pragma GCC unroll 3
      for (int r = 0; r < 3; ++r) {
        const Vec by[3] = {load(w.conv + 3 * r * E + e), load(w.conv + (3 * r + 1) * E + e),
                           load(w.conv + (3 * r + 2) * E + e)};
#pragma GCC unroll 6
        for (int q = 0; q < TOKENS + 2; ++q) {
          const Vec pixel = load(around[r][q] + e);
#pragma GCC unroll 4
          for (int i = 0; i < TOKENS; ++i) {
            if (q - i >= 0 && q - i < 3) y[i] += by[q - i] * pixel;
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < TOKENS; ++i) store(out + i * E + e, silu(y[i]));
    }
    for (int g = 0; g < 2 * HEADS; g += GATES) {
      Vec sums[TOKENS][GATES] = {};
      for (int e = 0; e < E; e += LANES) {
        Vec y[TOKENS], x[TOKENS];
#pragma GCC unroll 4
        for (int i = 0; i < TOKENS; ++i) {
          y[i] = load(out + i * E + e);
          x[i] = load(around[1][i + 1] + e);
        }
#pragma GCC unroll 8
        for (int j = 0; j < GATES; ++j) {
          const Vec of_y = load(w.gate_a + (g + j) * E + e), of_x = load(w.gate_x + (g + j) * E + e);
#pragma GCC unroll 4
          for (int i = 0; i < TOKENS; ++i) sums[i][j] += of_y * y[i] + of_x * x[i];
        }
      }
      for (int i = 0; i < TOKENS; ++i) {
        for (int j = 0; j < GATES; ++j) {
          gates[(int64_t(b) * 2 * HEADS + g + j) * S + t + i] = total(sums[i][j]) + w.gate_bias[g + j];
        }
      }
    }
  }

  void decay(int head) {
    const int b = head / HEADS, h = head % HEADS;
    const float* input = gates + (int64_t(b) * 2 * HEADS + h) * S;
    const float* forget = input + int64_t(HEADS) * S;
    const int64_t at = int64_t(head) * S;
    double sum = 0;
    float most = c.m[head];
    for (int s = 0; s < S; ++s) {
      const int t = stored(s);
      if (s > 0 && s % L == 0) {  // afresh, so that the numbers stay small
        most += float(sum);
        sum = 0;
      }
      sum += std::min(forget[t], 0.0f) - std::log1p(std::exp(-std::abs(forget[t])));  // log sigmoid
      decayed[at + s] = float(sum);
      source[at + s] = float(input[t] - sum);
      most = std::max(most, source[at + s]);
      highest[at + s] = most;
    }
  }

  // k and v of a chunk, and what it adds to the memory at its end.
  void remember(int head, int chunk) {
    const int b = head / HEADS, first = (head % HEADS) * K, count = length(chunk);
    const int64_t item = int64_t(head) * N + chunk, at = int64_t(head) * S + chunk * L;
    const bool last = chunk + 1 == N;  // nothing comes after it
    F* k = keys + item * K * L;
    F* k_right = keys_right + item * K * L;
    F* v = values + item * L * K;
    float* weight = workspace();          // (L), decay until the chunk's end
    F* decayed_v = factors(weight + L);  // (L, K), right factor
    if (!last) {
      const float end = highest[at + count - 1];
      for (int i = 0; i < count; i += LANES) store(weight + i, exponential(load(source + at + i) - end));
    }
    for (int i = 0; i < count; i += GROUP) {
      const T* from[GROUP];
      for (int j = 0; j < GROUP; ++j) from[j] = i + j < count ? xm(b, stored(chunk * L + i + j)) + first : nothing<T>();
      for (int e = 0; e < K; e += LANES) {
        Vec x[GROUP];
        for (int j = 0; j < GROUP; ++j) x[j] = load(from[j] + e);
        block_map(x, w.v + first, w.v_bias + first, E, e);
        for (int j = 0; j < GROUP; j += 2) {
          Factor::store_right(v + (i + j) * K + e * Factor::TERMS, K, x[j], x[j + 1]);
        }
        if (last) continue;
        for (int j = 0; j < GROUP; j += 2) {
          const Vec even = x[j] * weight[i + j], odd = x[j + 1] * weight[i + j + 1];
          Factor::store_right(decayed_v + (i + j) * K + e * Factor::TERMS, K, even, odd);
        }
      }
    }
    for (int i = 0; i < L; i += LANES) {
      for (int e = 0; e < K; e += LANES) {
        Vec square[LANES];
        for (int lane = 0; lane < LANES; ++lane) square[lane] = load(convolved(b, chunk, i + lane) + first + e);
        block_map(square, w.k + first, w.k_bias + first, E, e);
        for (int lane = std::max(count - i, 0); lane < LANES; ++lane) square[lane] = Vec{};  // keys that are not there
        transpose(square);
        for (int lane = 0; lane < LANES; ++lane) store(k + (e + lane) * L + i, square[lane]);
        if (WIDE) continue;
        for (int lane = 0; lane < LANES; lane += 2) {
          Factor::store_right(k_right + (e + lane) * L + i * Factor::TERMS, L, square[lane], square[lane + 1]);
        }
      }
    }
    if (last) return;

    float* n = normalisers + (item + 1) * K;
    for (int e = 0; e < K; ++e) {
      Vec sum{};
      for (int i = 0; i < count; i += LANES) sum += load(k + e * L + i) * load(weight + i);
      n[e] = total(sum);
    }
    float* memory = memories + (item + 1) * K * K;
    for (int row = 0; row < K; row += TILE_ROWS) {
      const Product<F> products[1] = {{k + row * L, L, decayed_v, K, count}};
      tile_row(products, K / LANES, memory + row * K, K);
    }
  }

  // From what each chunk adds to the memory before each chunk; a part of its rows, which are taken in pairs.
  void carry(int head, int part) {
    const int from = K / 2 * part / MEMORY_PARTS * 2, to = K / 2 * (part + 1) / MEMORY_PARTS * 2;
    const float* C = c.C + int64_t(head) * K * K;
    const float* n = c.n + int64_t(head) * K;
    for (int chunk = 0;; ++chunk) {
      const int64_t item = int64_t(head) * N + chunk;
      if (!WIDE) {
        for (int row = from; row < to; row += 2) {
          F* right = memories_right + item * K * K + row * K;
          for (int e = 0; e < K; e += LANES) {
            Factor::store_right(right + e * Factor::TERMS, K, load(C + row * K + e), load(C + (row + 1) * K + e));
          }
        }
      }
      if (chunk + 1 == N) return;
      const float end = highest[int64_t(head) * S + (chunk + 1) * L - 1];
      const float keep = std::exp(before(head, chunk) - end);
      float* next = memories + (item + 1) * K * K;
      for (int i = from * K; i < to * K; i += LANES) store(next + i, load(next + i) + load(C + i) * keep);
      C = next;
      if (part > 0) continue;
      float* next_n = normalisers + (item + 1) * K;
      for (int e = 0; e < K; e += LANES) store(next_n + e, load(next_n + e) + load(n + e) * keep);
      n = next_n;
    }
  }

  void read(int head, int chunk) {
    const int b = head / HEADS, first = (head % HEADS) * K, count = length(chunk);
    const int64_t item = int64_t(head) * N + chunk, at = int64_t(head) * S + chunk * L;
    const float* n = chunk == 0 ? c.n + int64_t(head) * K : normalisers + item * K;
    const F* C = memory_before(head, chunk);
    const float start = before(head, chunk);
    const IntVec lanes = lane_numbers();
    float* h = workspace();                         // (L, K)
    float* scores = h + L * K;                      // (L, L)
    float* denominator = scores + L * L;            // (L): at first its least value
    float* kept = denominator + L;                  // (L): decay since the chunk began
    float* remembered = kept + L;                   // (L): q n
    F* q = factors(remembered + L);                 // (L, K), left factor
    F* kept_q = factors(remembered + L + L * K);    // (L, K), left factor
    F* W = WIDE ? factors(scores) : factors(remembered + L + 2 * L * K);  // (L, L), left factor

    for (int i = 0; i < count; i += LANES) {
      const Vec most = load(highest + at + i), m = load(decayed + at + i) + most;
      store(kept + i, exponential(start - most));
      store(denominator + i, exponential(-m < LARGEST_EXPONENT ? -m : spread(LARGEST_EXPONENT)));
    }
    for (int i = 0; i < count; i += GROUP) {
      const float* from[GROUP];
      for (int j = 0; j < GROUP; ++j) from[j] = convolved(b, chunk, i + j) + first;
      Vec sums[GROUP] = {};
      for (int e = 0; e < K; e += LANES) {
        Vec x[GROUP];
        for (int j = 0; j < GROUP; ++j) x[j] = load(from[j] + e);
        block_map(x, w.q + first, w.q_bias + first, E, e);
        for (int j = 0; j < GROUP; ++j) {
          sums[j] += x[j] * load(n + e);
          store(q + (i + j) * K + e, x[j]);
          store(kept_q + (i + j) * K + e, x[j] * kept[i + j]);
        }
      }
      for (int j = 0; j < GROUP; ++j) remembered[i + j] = total(sums[j]) * kept[i + j];
    }
    for (int row = 0; row < count; row += TILE_ROWS) {
      // W is q k^T with the decay, for keys no later than the query.
      const int rows = std::min(TILE_ROWS, count - row);
      const Product<F> product[1] = {{q + row * K, K, keys_right + item * K * L, L, K}};
      const int vectors = (std::min(row + TILE_ROWS, L) + LANES - 1) / LANES;
      tile_row(product, vectors, scores + row * L, L);
      for (int i = row; i < row + rows; ++i) {
        const float most = highest[at + i];
        Vec sum{};
        for (int v = 0; v < vectors; ++v) {
          const IntVec past = lanes + v * LANES <= i;
          const Vec decay = exponential(load(source + at + v * LANES) - most);
          const Vec weight = past ? load(scores + i * L + v * LANES) * decay : Vec{};
          store(W + i * L + v * LANES, weight);
          sum += weight;
        }
        denominator[i] = std::max(std::abs(total(sum) + remembered[i]), denominator[i]) + EPSILON;
      }
      const Product<F> sums[2] = {{kept_q + row * K, K, C, K, K}, {W + row * L, L, values + item * L * K, K, row + rows}};
      tile_row(sums, K / LANES, h + row * K, K);
    }
    for (int i = 0; i < count; ++i) finish(b, stored(chunk * L + i), first, h + i * K, 1.0f / denominator[i]);
  }

  // The memory before a chunk, as right factor.
  const F* memory_before(int head, int chunk) const {
    const int64_t item = int64_t(head) * N + chunk;
    if constexpr (WIDE) {
      return chunk == 0 ? c.C + int64_t(head) * K * K : memories + item * K * K;
    } else {
      return memories_right + item * K * K;
    }
  }

  // Norm of h (K) times a factor, skip and output gate.
  void finish(int b, int t, int first, const float* h, float factor) {
    const auto [mean, variance] = moments(h, K);
    const float scale = factor / std::sqrt(variance * factor * factor + w.norm_eps);
    const int64_t token = int64_t(b) * S + t;
    const float* skipped = a + token * E + first;
    const T* gate = z(b, t) + first;
    T* y = static_cast<T*>(c.y) + token * E + first;
    for (int e = 0; e < K; e += LANES) {
      const Vec normed = (load(h + e) - mean) * scale;
      Vec out = load(w.shift + first + e) + normed * load(w.gain + first + e);
      out += load(w.skip + first + e) * load(skipped + e);
      store(y + e, out * silu(load(gate + e)));
    }
  }
};

}  // namespace

extern "C" void run_sublayer(const Weights* weights, const Call* call) {
  if (call->half) {
    Sublayer<BFloat16, HalfFactor>(*weights, *call).run();
  } else {
    Sublayer<float, float>(*weights, *call).run();
  }
}

extern "C" int32_t lanes() { return LANES; }
