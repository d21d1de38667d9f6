// What a network prepared for a CPU does to all numbers of a tensor in one or two passes over memory: norms, with the
// activation behind them, and sums.
//
// Compiled by vil_tracker/native/__init__.py with GCC or Clang for the processor it runs on.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t PART_ROWS = 64, MOST_PARTS = 16;  // of an image in a group norm: the same for any number of threads

// x times the standard normal distribution's function at x, to 2e-7 |x|. Abramowitz and Stegun, 7.1.26.
inline Vec gelu(Vec x) {
  const IntVec sign = (IntVec)x & INT32_MIN;
  const Vec z = (Vec)((IntVec)x ^ sign) * 0.70710678f;
  const Vec t = 1.0f / (1.0f + 0.3275911f * z);
  Vec p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec tail = 0.5f * p * t * exponential(-z * z);  // of the normal distribution beyond |x|
  return x * (sign ? tail : 1.0f - tail);
}

// Of three values the middle one.
inline Vec median(Vec a, Vec b, Vec c) {
  const Vec low = a < b ? a : b, high = a < b ? b : a;
  const Vec rest = high < c ? high : c;
  return low > rest ? low : rest;
}

// Group norm and GELU of images (B, rows, width), channels last, `width` a multiple of LANES / fold: the program sees
// rows of fold * width numbers, so that vectors fit rows whose width does not.
template <typename T>
void group_norm_gelu(const T* x, T* out, int64_t B, int64_t rows, int32_t width, int32_t groups, int32_t fold,
                     const float* gain, const float* shift, float eps, int32_t threads) {
  const int period = fold * width, of_group = width / groups;
  const int64_t lines = rows / fold;
  const int64_t parts = std::max<int64_t>(1, std::min(lines / PART_ROWS, MOST_PARTS));
  const auto begin = [&](int64_t part) { return lines * part / parts; };
  // By image and part: a value of each channel, and the sums of the distances from it and of their squares. A mean far
  // from 0 so takes no digits from the variance; nor does a single far value, for the middle one of three is taken.
  std::vector<float> found(B * parts * 3 * period);

#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t item = 0; item < B * parts; ++item) {
      const int64_t b = item / parts, part = item % parts;
      float* of_part = found.data() + item * 3 * period;
      for (int e = 0; e < period; e += LANES) {
        const T* at = x + b * lines * period + e;
        const Vec pivot = median(load(at), load(at + lines / 3 * period), load(at + 2 * lines / 3 * period));
        Vec sum{}, squares{};
        for (int64_t line = begin(part); line < begin(part + 1); ++line) {
          const Vec away = load(x + (b * lines + line) * period + e) - pivot;
          sum += away;
          squares += away * away;
        }
        store(of_part + e, pivot);
        store(of_part + period + e, sum);
        store(of_part + 2 * period + e, squares);
      }
    }

    std::vector<float> factor(period), summand(period);
    std::vector<double> means(period);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < B * parts; ++item) {
      const int64_t b = item / parts, part = item % parts;
      const float* of_image = found.data() + b * parts * 3 * period;
      for (int group = 0; group < groups; ++group) {
        double mean = 0, variance = 0;
        for (int copy = 0; copy < fold; ++copy) {
          for (int e = copy * width + group * of_group; e < copy * width + (group + 1) * of_group; ++e) {
            double sum = 0, squares = 0;
            for (int64_t other = 0; other < parts; ++other) {
              sum += of_image[(3 * other + 1) * period + e];
              squares += of_image[(3 * other + 2) * period + e];
            }
            means[e] = of_image[e] + sum / lines;
            mean += means[e] / (fold * of_group);
            variance += (squares / lines - sum / lines * (sum / lines)) / (fold * of_group);
          }
        }
        for (int copy = 0; copy < fold; ++copy) {
          for (int e = copy * width + group * of_group; e < copy * width + (group + 1) * of_group; ++e) {
            variance += (means[e] - mean) * (means[e] - mean) / (fold * of_group);
          }
        }
        const double scale = 1 / std::sqrt(variance + eps);
        for (int e = group * of_group; e < (group + 1) * of_group; ++e) {
          for (int copy = 0; copy < fold; ++copy) {
            factor[copy * width + e] = float(gain[e] * scale);
            summand[copy * width + e] = float(shift[e] - mean * gain[e] * scale);
          }
        }
      }
      for (int64_t line = begin(part); line < begin(part + 1); ++line) {
        const int64_t at = (b * lines + line) * period;
        for (int e = 0; e < period; e += LANES) {
          store(out + at + e, gelu(load(x + at + e) * load(factor.data() + e) + load(summand.data() + e)));
        }
      }
    }
  }
}

}  // namespace

// See above; x and out are bfloat16 if `half`, else float32.
extern "C" void group_norm_gelu(const void* x, void* out, int64_t B, int64_t rows, int32_t width, int32_t groups,
                                int32_t fold, const float* gain, const float* shift, float eps, int32_t threads,
                                int32_t half) {
  if (half) {
    group_norm_gelu(static_cast<const BFloat16*>(x), static_cast<BFloat16*>(out), B, rows, width, groups, fold, gain,
                    shift, eps, threads);
  } else {
    group_norm_gelu(static_cast<const float*>(x), static_cast<float*>(out), B, rows, width, groups, fold, gain, shift,
                    eps, threads);
  }
}

// (rows, width) with mean 0 and variance 1 in every row; out is float32, or bfloat16 if `half`.
extern "C" void normalise(const float* x, void* out, int64_t rows, int32_t width, float eps, int32_t threads,
                          int32_t half) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * width;
    const auto [mean, variance] = moments(from, width);
    const float scale = 1.0f / std::sqrt(variance + eps);
    for (int e = 0; e < width; e += LANES) {
      const Vec normed = (load(from + e) - mean) * scale;
      if (half) {
        store(static_cast<BFloat16*>(out) + row * width + e, normed);
      } else {
        store(static_cast<float*>(out) + row * width + e, normed);
      }
    }
  }
}

// out = x + y, of so many numbers, a multiple of the lanes.
extern "C" void add(const float* x, const BFloat16* y, float* out, int64_t count, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < count; i += LANES) store(out + i, load(x + i) + load(y + i));
}

extern "C" int32_t lanes() { return LANES; }
