// A linear map of the rows of a matrix, for inference on processors with AVX2 or AVX-512, where it takes less time than
// the library's: its weights are kept in the order in which they are read, and calling it costs next to nothing.
//
// Compiled by vil_tracker/native/__init__.py with GCC or Clang for the processor it runs on.

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "products.h"

namespace {

constexpr int PANEL = TILE_VECTORS * LANES;
constexpr int64_t MOST_ROWS = 128;  // of a thread at a time, so that they stay in its cache while panels come and go

int64_t whole_tiles(int64_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }

}  // namespace

// out (rows, outputs) = x @ weight + bias, plus the residual if there is one. A row of x begins `x_row` numbers after
// the one before. The weight is cut into panels of PANEL columns, the last of what is left, each (inputs, columns).
extern "C" void linear(const float* x, int64_t x_row, const float* weight, const float* bias, const float* residual,
                       float* out, int64_t rows, int32_t inputs, int32_t outputs, int32_t threads) {
  std::vector<float> few;  // a tile reads TILE_ROWS rows
  if (rows < TILE_ROWS) {
    few.resize(TILE_ROWS * inputs);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(x + row * x_row, inputs, few.data() + row * inputs);
    x = few.data(), x_row = inputs;
  }
  const int64_t share = std::min(whole_tiles((rows + threads - 1) / threads), MOST_ROWS);
  const int64_t blocks = (rows + share - 1) / share, panels = (outputs + PANEL - 1) / PANEL;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * PANEL;
      const int columns = int(std::min<int64_t>(PANEL, outputs - first));
      float sums[TILE_ROWS * PANEL];
      for (int64_t row = block * share; row < std::min((block + 1) * share, rows); row += TILE_ROWS) {
        const int64_t from = std::max<int64_t>(std::min(row, rows - TILE_ROWS), 0);  // the last tile begins earlier
        const Product<float> product[1] = {{x + from * x_row, x_row, weight + first * inputs, columns, inputs}};
        tile_row(product, columns / LANES, sums, columns);
        for (int64_t at = row; at < std::min(from + TILE_ROWS, rows); ++at) {
          const int64_t place = at * outputs + first;
          for (int e = 0; e < columns; e += LANES) {
            const Vec y = load(sums + (at - from) * columns + e) + load(bias + first + e);
            store(out + place + e, residual ? y + load(residual + place + e) : y);
          }
        }
      }
    }
  }
}

extern "C" int32_t panel() { return PANEL; }

extern "C" int32_t lanes() { return LANES; }
