// Products of small matrices in a thread's own cache, for the programs of this folder.

#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_ROWS = 8, TILE_VECTORS = 3;  // 24 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 4, TILE_VECTORS = 3;  // 12 of 16
#endif

// The factors of a matrix product, in float32, or in bfloat16 where the processor multiplies such: then two terms at a
// time. The left factor (rows, depth) has a row's elements side by side. The right factor (depth, columns) does, too, in
// float32; in bfloat16 it holds pairs of rows, the elements of a column side by side. Sums are float32.
template <typename F>
struct Factors;

template <>
struct Factors<float> {
  static constexpr int TERMS = 1;

  static Vec left(const float* from) { return spread(*from); }
  static Vec right(const float* from) { return load(from); }
  static Vec add(Vec sum, Vec left, Vec right) { return sum + left * right; }

  // LANES columns of two rows of a right factor, from the first of them.
  static void store_right(float* to, ptrdiff_t row, Vec even, Vec odd) {
    store(to, even);
    store(to + row, odd);
  }
};

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
template <>
struct Factors<BFloat16> {
  static constexpr int TERMS = 2;

  static IntVec left(const BFloat16* from) {
    int32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    return pair - IntVec{};
  }
  static IntVec right(const BFloat16* from) { return *reinterpret_cast<const LooseIntVec*>(from); }
  static Vec add(Vec sum, IntVec left, IntVec right) {
#if defined(__AVX512BF16__)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
#else
    return (Vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)left, (bfloat16x8_t)right);
#endif
  }

  static void store_right(BFloat16* to, ptrdiff_t, Vec even, Vec odd) {
    const IntVec low = (rounded(even) >> 16) & 0xffff, high = rounded(odd) & ~0xffff;
    *reinterpret_cast<LooseIntVec*>(to) = low | high;
  }
};
using HalfFactor = BFloat16;
#else
using HalfFactor = float;
#endif

// One summand of a product: a (rows, depth) @ b (depth, columns).
template <typename F>
struct Product {
  const F* a;
  ptrdiff_t a_row;
  const F* b;
  ptrdiff_t b_row;
  int depth;  // with two terms at a time one more is read if it is odd; it must be 0 in one factor, finite in the other
};

// sums (TILE_ROWS, VECTORS lanes) += the product, for columns from `column`
template <int VECTORS, typename F>
inline void accumulate(Vec (&sums)[TILE_ROWS][VECTORS], const Product<F>& product, int column) {
  using Factor = Factors<F>;
  const F* b = product.b + column * Factor::TERMS;
  for (int d = 0; d < product.depth; d += Factor::TERMS) {
    decltype(Factor::right(b)) right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      right[v] = in_register(Factor::right(b + d * product.b_row + v * LANES * Factor::TERMS));
    }
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; ++r) {
      const auto left = Factor::left(product.a + r * product.a_row + d);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = Factor::add(sums[r][v], left, right[v]);
    }
  }
}

template <int VECTORS, typename F, int COUNT>
inline void tile(const Product<F> (&products)[COUNT], int column, float* out, ptrdiff_t out_row) {
  Vec sums[TILE_ROWS][VECTORS] = {};
#pragma GCC unroll 2
  for (int p = 0; p < COUNT; ++p) accumulate(sums, products[p], column);
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(out + r * out_row + column + v * LANES, sums[r][v]);
  }
}

// out (TILE_ROWS, vectors lanes) = the sum of the products
template <typename F, int COUNT>
void tile_row(const Product<F> (&products)[COUNT], int vectors, float* out, ptrdiff_t out_row) {
  for (int done = 0; done < vectors;) {
    const int column = done * LANES;
    int width = std::min(vectors - done, TILE_VECTORS);
    if (vectors - done > TILE_VECTORS && vectors - done < 2 * TILE_VECTORS) width = (vectors - done + 1) / 2;
    switch (width) {
      case 1: tile<1>(products, column, out, out_row); break;
      case 2: tile<2>(products, column, out, out_row); break;
      default: tile<TILE_VECTORS>(products, column, out, out_row); break;
    }
    done += width;
  }
}

}  // namespace
