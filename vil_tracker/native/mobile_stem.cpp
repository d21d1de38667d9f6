// The stem of models/stem.py that is a MobileNetV3 (MobileStem), for inference on a CPU: it is some forty convolutions
// of few operations each, so that calling them one by one takes longer than computing them.
//
// Images are channels last. Every number of channels but that of the result is filled up to whole vectors with
// channels that are 0 throughout, for their weights and biases are 0. Pixels of all images of a batch are rows of one
// matrix wherever a pixel is computed from itself alone.
//
// Compiled by vil_tracker/native/__init__.py with GCC or Clang for the processor it runs on.

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "products.h"

extern "C" {

// An inverted residual block; float32. A missing layer has no weights (null).
struct Block {
  const float *expand, *expand_bias;        // (inputs, hidden), (hidden)
  const float *depthwise, *depthwise_bias;  // (kernel², hidden), (hidden)
  const float *squeeze, *squeeze_bias;      // (squeezed, hidden), (squeezed)
  const float *excite, *excite_bias;        // (squeezed, hidden), (hidden)
  const float *project, *project_bias;      // (hidden, outputs), (outputs)
  int32_t inputs, hidden, outputs, kernel, stride, squeezed, hard_swish, residual;
};

struct Stem {
  const float *first, *first_bias;  // (3 × 3 × 3, channels), (channels): of RGB in [0, 1], of stride 2
  const float *mean, *std;          // (3): an image times std plus mean is RGB in [0, 1]
  const float *project, *project_bias;  // (the last block's outputs, dim), (dim)
  const Block* blocks;
  int32_t count, channels, dim;
};

// image (B, 3, rows, columns) with strides in numbers; out (B pixels + spare_rows(), dim).
struct StemCall {
  const float* image;
  float *out, *scratch;
  int64_t strides[4];
  int32_t B, rows, columns, threads;
};
}

namespace {

constexpr int COLOURS = 3, FIRST_KERNEL = 3;
constexpr int NEIGHBOURS = 4;  // of a row that share the loads of a filter

enum class Activation { NONE, RELU, HARD_SWISH };

inline Vec clamp(Vec x, float low, float high) {
  x = x < low ? spread(low) : x;
  return x > high ? spread(high) : x;
}

inline Vec hard_sigmoid(Vec x) { return clamp(x * (1.0f / 6) + 0.5f, 0, 1); }

inline Vec activate(Vec x, Activation kind) {
  if (kind == Activation::RELU) return x < 0.0f ? Vec{} : x;
  return kind == Activation::HARD_SWISH ? x * hard_sigmoid(x) : x;
}

int half(int side) { return (side + 1) / 2; }  // of an image behind a convolution of stride 2

// Buffers hold B images of pixels × channels, and room for the rows that a tile computes beyond the last pixel.
struct Sizes {
  int64_t narrow = 0, wide = 0, channels = 0;  // between blocks and inside them; of the widest block
};

Sizes sizes(const Stem& stem, int64_t B, int rows, int columns) {
  Sizes most;
  const auto grow = [&](int64_t& size, int channels) {
    size = std::max(size, (B * rows * columns + TILE_ROWS) * channels);
  };
  most.wide = (B * (rows + 2) * (columns + 2) * COLOURS + LANES - 1) / LANES * LANES;
  rows = half(rows), columns = half(columns);
  grow(most.narrow, stem.channels);
  for (int i = 0; i < stem.count; ++i) {
    const Block& block = stem.blocks[i];
    grow(most.wide, block.hidden);
    if (block.stride == 2) rows = half(rows), columns = half(columns);
    grow(most.narrow, block.outputs);
    most.channels = std::max<int64_t>(most.channels, block.hidden);
  }
  return most;
}

// Runs inside a parallel region: every method is called by all threads and ends with a barrier.
class Runner {
 public:
  Runner(const Stem& stem, const StemCall& call) : stem_(stem), call_(call), B(call.B) {
    const Sizes most = sizes(stem, B, call.rows, call.columns);
    float* free = call.scratch;
    const auto take = [&](int64_t count) {
      float* start = free;
      free += count;
      return start;
    };
    x_ = take(most.narrow), next_ = take(most.narrow);
    expanded_ = take(most.wide), filtered_ = take(most.wide);
    means_ = take(B * most.channels), shares_ = take(B * most.channels);
    zeros_ = take(most.channels);
    std::fill(zeros_, zeros_ + most.channels, 0.0f);
  }

  void run() const {
    int rows = call_.rows, columns = call_.columns;
    frame(expanded_, rows, columns);
    first(expanded_, rows, columns);
    rows = half(rows), columns = half(columns);
    float *x = x_, *next = next_;
    for (int i = 0; i < stem_.count; ++i) {
      const Block& block = stem_.blocks[i];
      const Activation activation = block.hard_swish ? Activation::HARD_SWISH : Activation::RELU;
      const float* wide = x;
      if (block.expand) {
        pointwise(x, block.inputs, block.expand, block.expand_bias, block.hidden, activation, expanded_,
                  int64_t(B) * rows * columns);
        wide = expanded_;
      }
      const bool late = block.squeeze && block.hard_swish;  // the activation stands behind the excitation
      depthwise(block, wide, rows, columns, late ? Activation::NONE : activation);
      if (block.stride == 2) rows = half(rows), columns = half(columns);
      const int pixels = rows * columns;
      if (block.squeeze) {
        squeeze(block, pixels);
        excite(block, pixels, late ? activation : Activation::NONE);
      }
      pointwise(filtered_, block.hidden, block.project, block.project_bias, block.outputs, Activation::NONE, next,
                int64_t(B) * pixels, block.residual ? x : nullptr);
      std::swap(x, next);
    }
    const int last = stem_.count ? stem_.blocks[stem_.count - 1].outputs : stem_.channels;
    pointwise(x, last, stem_.project, stem_.project_bias, stem_.dim, Activation::NONE, call_.out,
              int64_t(B) * rows * columns);
  }

 private:
  const Stem& stem_;
  const StemCall& call_;
  const int B;
  float *x_, *next_;              // between blocks
  float *expanded_, *filtered_;   // inside them, before and behind the depthwise convolution
  float *means_, *shares_;        // (B, hidden): of the filtered image, and what its channels are multiplied by
  float* zeros_;                  // (hidden): stand for pixels that are not there

  // Images (B, rows + 2, columns + 2, 3) in [0, 1] with a black border.
  void frame(float* out, int rows, int columns) const {
    const int width = (columns + 2) * COLOURS;
#pragma omp for schedule(static)
    for (int item = 0; item < B * (rows + 2); ++item) {
      float* line = out + int64_t(item) * width;
      const int b = item / (rows + 2), row = item % (rows + 2) - 1;
      std::fill(line, line + width, 0.0f);
      if (row < 0 || row == rows) continue;
      const float* from = call_.image + b * call_.strides[0] + row * call_.strides[2];
      for (int column = 0; column < columns; ++column) {
        for (int c = 0; c < COLOURS; ++c) {
          const float value = from[c * call_.strides[1] + column * call_.strides[3]];
          line[(column + 1) * COLOURS + c] = value * stem_.std[c] + stem_.mean[c];
        }
      }
    }
  }

  // The first convolution, of stride 2, and hard swish: of a framed image, whose pixels lie side by side, so that a row
  // of the kernel is a product. Needs TILE_ROWS columns of output: 16 columns of the image.
  void first(const float* framed, int rows, int columns) const {
    const int out_rows = half(rows), out_columns = half(columns), channels = stem_.channels;
    const int line = (columns + 2) * COLOURS, depth = FIRST_KERNEL * COLOURS;
#pragma omp for schedule(static)
    for (int item = 0; item < B * out_rows; ++item) {
      const float* top = framed + (int64_t(item / out_rows) * (rows + 2) + item % out_rows * 2) * line;
      for (int done = 0; done < out_columns; done += TILE_ROWS) {
        const int column = std::min(done, out_columns - TILE_ROWS);
        const float* from = top + 2 * column * COLOURS;
        const float* weight = stem_.first;
        const Product<float> products[FIRST_KERNEL] = {
            {from, 2 * COLOURS, weight, channels, depth},
            {from + line, 2 * COLOURS, weight + depth * channels, channels, depth},
            {from + 2 * line, 2 * COLOURS, weight + 2 * depth * channels, channels, depth}};
        float* out = x_ + (int64_t(item) * out_columns + column) * channels;
        tile_row(products, channels / LANES, out, channels);
        finish(out, TILE_ROWS, stem_.first_bias, channels, Activation::HARD_SWISH, nullptr);
      }
    }
  }

  // Bias, activation and residual of so many pixels.
  static void finish(float* out, int pixels, const float* bias, int channels, Activation activation,
                     const float* residual) {
    for (int at = 0; at < pixels * channels; at += channels) {
      for (int e = 0; e < channels; e += LANES) {
        const Vec y = activate(load(out + at + e) + load(bias + e), activation);
        store(out + at + e, residual ? y + load(residual + at + e) : y);
      }
    }
  }

  // out (pixels, outputs) = the activation of x (pixels, inputs) @ weight + bias, plus the residual if there is one.
  void pointwise(const float* x, int inputs, const float* weight, const float* bias, int outputs, Activation activation,
                 float* out, int64_t pixels, const float* residual = nullptr) const {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < pixels; row += TILE_ROWS) {
      const Product<float> product[1] = {{x + row * inputs, inputs, weight, outputs, inputs}};
      tile_row(product, outputs / LANES, out + row * outputs, outputs);
      const int count = int(std::min<int64_t>(TILE_ROWS, pixels - row));
      finish(out + row * outputs, count, bias, outputs, activation, residual ? residual + row * outputs : nullptr);
    }
  }

  void depthwise(const Block& block, const float* x, int rows, int columns, Activation activation) const {
    const bool large = block.kernel == 5, steps = block.stride == 2;
    if (large && steps) return filter<5, 2>(block, x, rows, columns, activation);
    if (large) return filter<5, 1>(block, x, rows, columns, activation);
    if (steps) return filter<3, 2>(block, x, rows, columns, activation);
    filter<3, 1>(block, x, rows, columns, activation);
  }

  template <int KERNEL, int STRIDE>
  void filter(const Block& block, const float* x, int rows, int columns, Activation activation) const {
    const int out_rows = STRIDE == 2 ? half(rows) : rows, out_columns = STRIDE == 2 ? half(columns) : columns;
#pragma omp for schedule(static)
    for (int item = 0; item < B * out_rows; ++item) {
      const float* image = x + int64_t(item / out_rows) * rows * columns * block.hidden;
      const int row = item % out_rows;
      float* out = filtered_ + int64_t(item) * out_columns * block.hidden;
      int column = 0;
      for (; column + NEIGHBOURS <= out_columns; column += NEIGHBOURS) {
        filter_pixels<KERNEL, STRIDE, NEIGHBOURS>(block, image, rows, columns, row, column, activation, out);
      }
      for (; column < out_columns; ++column) {
        filter_pixels<KERNEL, STRIDE, 1>(block, image, rows, columns, row, column, activation, out);
      }
    }
  }

  // Of so many neighbours in a row of the output, which begins at `out`.
  template <int KERNEL, int STRIDE, int COUNT>
  void filter_pixels(const Block& block, const float* image, int rows, int columns, int row, int column,
                     Activation activation, float* out) const {
    constexpr int REACH = (COUNT - 1) * STRIDE + KERNEL;
    const int width = block.hidden;
    const float* around[KERNEL][REACH];
    for (int r = 0; r < KERNEL; ++r) {
      for (int q = 0; q < REACH; ++q) {
        const int at_row = row * STRIDE - KERNEL / 2 + r, at_column = column * STRIDE - KERNEL / 2 + q;
        const bool inside = at_row >= 0 && at_row < rows && at_column >= 0 && at_column < columns;
        around[r][q] = inside ? image + (int64_t(at_row) * columns + at_column) * width : zeros_;
      }
    }
    for (int e = 0; e < width; e += LANES) {
      Vec sums[COUNT];
#pragma GCC unroll 4
      for (int i = 0; i < COUNT; ++i) sums[i] = load(block.depthwise_bias + e);
      for (int r = 0; r < KERNEL; ++r) {
        Vec weights[KERNEL];
#pragma GCC unroll 5
        for (int q = 0; q < KERNEL; ++q) weights[q] = load(block.depthwise + (r * KERNEL + q) * width + e);
#pragma GCC unroll 16
        for (int q = 0; q < REACH; ++q) {
          const Vec pixel = load(around[r][q] + e);
#pragma GCC unroll 4
          for (int i = 0; i < COUNT; ++i) {
            if (q >= i * STRIDE && q < i * STRIDE + KERNEL) sums[i] += weights[q - i * STRIDE] * pixel;
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < COUNT; ++i) store(out + (column + i) * width + e, activate(sums[i], activation));
    }
  }

  // How much each channel of each image counts, from the means of all its channels.
  void squeeze(const Block& block, int pixels) const {
    const int width = block.hidden, vectors = width / LANES;
#pragma omp for schedule(static)
    for (int item = 0; item < B * vectors; ++item) {
      const int b = item / vectors, e = item % vectors * LANES;
      const float* image = filtered_ + int64_t(b) * pixels * width + e;
      Vec sum{};
      for (int pixel = 0; pixel < pixels; ++pixel) sum += load(image + pixel * width);
      store(means_ + b * width + e, sum / spread(float(pixels)));
    }
#pragma omp for schedule(static)
    for (int b = 0; b < B; ++b) {
      const float* means = means_ + b * width;
      float* shares = shares_ + b * width;
      for (int e = 0; e < width; e += LANES) store(shares + e, load(block.excite_bias + e));
      for (int j = 0; j < block.squeezed; ++j) {
        Vec sum{};
        for (int e = 0; e < width; e += LANES) sum += load(block.squeeze + j * width + e) * load(means + e);
        const float value = std::max(total(sum) + block.squeeze_bias[j], 0.0f);
        for (int e = 0; e < width; e += LANES) {
          store(shares + e, load(shares + e) + load(block.excite + j * width + e) * value);
        }
      }
      for (int e = 0; e < width; e += LANES) store(shares + e, hard_sigmoid(load(shares + e)));
    }
  }

  void excite(const Block& block, int pixels, Activation activation) const {
    const int width = block.hidden;
#pragma omp for schedule(static)
    for (int pixel = 0; pixel < B * pixels; ++pixel) {
      float* y = filtered_ + int64_t(pixel) * width;
      const float* shares = shares_ + pixel / pixels * width;
      for (int e = 0; e < width; e += LANES) store(y + e, activate(load(y + e) * load(shares + e), activation));
    }
  }
};

}  // namespace

// Number of floats that a call needs as scratch.
extern "C" int64_t stem_scratch(const Stem* stem, int32_t B, int32_t rows, int32_t columns) {
  const Sizes most = sizes(*stem, B, rows, columns);
  return 2 * (most.narrow + most.wide + B * most.channels) + most.channels;
}

// How many rows more than its pixels `out` must have.
extern "C" int32_t spare_rows() { return TILE_ROWS; }

extern "C" void run_stem(const Stem* stem, const StemCall* call) {
  const Runner runner(*stem, *call);
#pragma omp parallel num_threads(call->threads)
  runner.run();
}

extern "C" int32_t lanes() { return LANES; }
