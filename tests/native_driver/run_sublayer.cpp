// Runs the program of one sublayer on inputs from a file, without Python: for processors that only an emulator has.
//
// run_sublayer INPUT OUTPUT: INPUT holds B, rows, columns, E, reverse, half (int32), the norm's eps (float32) and the arrays of Weights, xm and z
// side by side, C, n and m (float32) in the order of the structures; OUTPUT gets y as float32.

#include <cstdio>
#include <vector>

#include "../../vil_tracker/native/sublayer.cpp"

int main(int count, char** names) {
  std::FILE* input = count == 3 ? std::fopen(names[1], "rb") : nullptr;
  int32_t sizes[6];
  Weights weights{};
  if (!input || std::fread(sizes, sizeof sizes, 1, input) != 1) return 2;
  if (std::fread(&weights.norm_eps, sizeof(float), 1, input) != 1) return 2;
  const auto [B, rows, columns, E, reverse, half] = sizes;
  const int S = rows * columns, K = E / HEADS;
  bool whole = true;
  auto array = [&](int64_t length) {
    auto* numbers = new std::vector<float>(length);  // the process ends soon
    whole = whole && std::fread(numbers->data(), sizeof(float), length, input) == size_t(length);
    return numbers->data();
  };
  weights.conv = array(9 * E);
  weights.conv_bias = array(E);
  for (auto part : {&weights.q, &weights.k, &weights.v}) *part = array(4 * E);
  for (auto part : {&weights.q_bias, &weights.k_bias, &weights.v_bias}) *part = array(E);
  for (auto part : {&weights.gate_a, &weights.gate_x}) *part = array(2 * HEADS * E);
  weights.gate_bias = array(2 * HEADS);
  for (auto part : {&weights.gain, &weights.shift, &weights.skip}) *part = array(E);
  weights.E = E;
  weights.reverse = reverse;

  const int64_t total = int64_t(B) * S * 2 * E;
  const float* both = array(total);
  std::vector<BFloat16> halves(total), half_out(total);
  if (half) {
    for (int64_t i = 0; i < total; i += LANES) store(halves.data() + i, load(both + i));
  }
  std::vector<float> out(int64_t(B) * S * E);
  const int threads = 2;
  std::vector<float> scratch(scratch_size(B, S, E, threads));
  Call call{};
  call.xm = half ? static_cast<const void*>(halves.data()) : both;
  call.z = half ? static_cast<const void*>(halves.data() + E) : both + E;
  call.y = half ? static_cast<void*>(half_out.data()) : out.data();
  call.C = array(int64_t(B) * HEADS * K * K);
  call.n = array(int64_t(B) * HEADS * K);
  call.m = array(int64_t(B) * HEADS);
  call.scratch = scratch.data();
  call.row = 2 * E;
  call.B = B;
  call.rows = rows;
  call.columns = columns;
  call.threads = threads;
  call.half = half;
  if (!whole) return 2;
  run_sublayer(&weights, &call);
  if (half) {
    for (size_t i = 0; i < out.size(); i += LANES) store(out.data() + i, load(half_out.data() + i));
  }
  std::FILE* output = std::fopen(names[2], "wb");
  const bool written = output && std::fwrite(out.data(), sizeof(float), out.size(), output) == out.size();
  std::printf("%d lanes\n", LANES);
  return written && std::fclose(output) == 0 ? 0 : 2;
}
