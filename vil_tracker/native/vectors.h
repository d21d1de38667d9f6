// Vectors of as many floats as the processor's registers hold, for the programs of this folder: loads and stores of
// float32 and bfloat16, exponential, sums and transposition.

#pragma once

#include <cstddef>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float LooseVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));
typedef int32_t LooseIntVec __attribute__((vector_size(LANES * 4), aligned(2), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }

inline Vec load(const BFloat16* from) {
  const HalfVec half = *reinterpret_cast<const HalfVec*>(from);
  const IntVec wide = __builtin_convertvector(half, IntVec) << 16;
  return (Vec)wide;  // the same bits
}

inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }

// A bfloat16 in the upper halves: the nearest, ties to even.
inline IntVec rounded(Vec value) {
  const IntVec bits = (IntVec)value;
  return bits + 0x7fff + ((bits >> 16) & 1);
}

inline void store(BFloat16* to, Vec value) {
  *reinterpret_cast<HalfVec*>(to) = __builtin_convertvector(rounded(value) >> 16, HalfVec);
}

inline Vec spread(float value) { return value - Vec{}; }

// With AVX2, GCC would read a factor from memory again for each of its products, and two loads a cycle are the limit
// there.
template <typename V>
inline V in_register(V value) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  asm("" : "+x"(value));
#endif
  return value;
}

inline IntVec lane_numbers() {
  IntVec numbers;
  for (int lane = 0; lane < LANES; ++lane) numbers[lane] = lane;
  return numbers;
}

// e^x to 2e-7, relatively; 1e-38 for x below -87. Polynomial of the Cephes library (Moshier).
inline Vec exponential(Vec x) {
  x = x < -87.3f ? spread(-87.3f) : x;
  x = x > 88.0f ? spread(88.0f) : x;
  const Vec magic = spread(12582912.0f + 127);  // adding it rounds to an integer, which the lowest bits then hold
  const Vec shifted = x * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (Vec)((IntVec)shifted << 23);
}

inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }

// Lanes chosen from two vectors: a lane number below LANES is one of `a`, the others follow in `b`.
inline Vec choose(Vec a, Vec b, IntVec from) {
#if defined(__clang__)
  Vec y;
  for (int i = 0; i < LANES; ++i) y[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
  return y;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

inline float total(Vec value) {
#pragma GCC unroll 4
  for (int half = LANES / 2; half > 0; half /= 2) value += choose(value, value, lane_numbers() ^ half);
  return value[0];
}

// Turn a square of numbers in place: lane i of vector j becomes lane j of vector i.
inline void transpose(Vec (&square)[LANES]) {
  const IntVec lane = lane_numbers();
#pragma GCC unroll 4
  for (int half = 1; half < LANES; half *= 2) {
    const IntVec upper = (lane & half) != 0;  // all bits set where true
    const IntVec even = upper ? lane + (LANES - half) : lane, odd = upper ? lane + LANES : lane + half;
#pragma GCC unroll 16
    for (int row = 0; row < LANES; ++row) {
      if (row & half) continue;
      const Vec first = square[row], second = square[row + half];
      square[row] = choose(first, second, even);
      square[row + half] = choose(first, second, odd);
    }
  }
}

struct Moments {
  float mean, variance;
};

// Of `width` numbers side by side.
inline Moments moments(const float* from, int width) {
  Vec sum{}, squares{};
  for (int e = 0; e < width; e += LANES) sum += load(from + e);
  const float mean = total(sum) / width;
  for (int e = 0; e < width; e += LANES) {
    const Vec away = load(from + e) - mean;
    squares += away * away;
  }
  return {mean, total(squares) / width};
}

}  // namespace
