// Runs the programs of passes.cpp on numbers from a file, without Python, as run_sublayer.cpp does with a sublayer.
//
// run_passes INPUT OUTPUT: INPUT holds B, rows, width, groups, fold, half (int32), eps, and gain (width), shift (width),
// x (B, rows, width) as float32; OUTPUT gets, of that shape each and as float32, the group norm of x with GELU, x with
// every row normalised (zeros where vectors do not fill a row), and x plus its own value in bfloat16.

#include <cstdio>

#include "../../vil_tracker/native/passes.cpp"

int main(int count, char** names) {
  std::FILE* input = count == 3 ? std::fopen(names[1], "rb") : nullptr;
  int32_t sizes[6];
  float eps;
  if (!input || std::fread(sizes, sizeof sizes, 1, input) != 1 || std::fread(&eps, sizeof eps, 1, input) != 1) return 2;
  const auto [B, rows, width, groups, fold, half] = sizes;
  const int64_t total = int64_t(B) * rows * width;
  std::vector<float> numbers(2 * width + total), out(3 * total);
  if (std::fread(numbers.data(), sizeof(float), numbers.size(), input) != numbers.size()) return 2;
  const float *gain = numbers.data(), *shift = gain + width, *x = shift + width;
  std::vector<BFloat16> halves(total), half_out(2 * total);
  for (int64_t i = 0; i < total; i += LANES) store(halves.data() + i, load(x + i));
  const int threads = 2;
  const void* from = half ? static_cast<const void*>(halves.data()) : x;
  void* images = half ? static_cast<void*>(half_out.data()) : out.data();
  void* tokens = half ? static_cast<void*>(half_out.data() + total) : out.data() + total;
  group_norm_gelu(from, images, B, rows, width, groups, fold, gain, shift, eps, threads, half);
  if (width % LANES == 0) normalise(x, tokens, int64_t(B) * rows, width, eps, threads, half);
  if (half) {
    for (int64_t i = 0; i < 2 * total; i += LANES) store(out.data() + i, load(half_out.data() + i));
  }
  add(x, halves.data(), out.data() + 2 * total, total, threads);
  std::FILE* output = std::fopen(names[2], "wb");
  const bool written = output && std::fwrite(out.data(), sizeof(float), out.size(), output) == out.size();
  std::printf("%d lanes\n", LANES);
  return written && std::fclose(output) == 0 ? 0 : 2;
}
