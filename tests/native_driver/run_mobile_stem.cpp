// Runs the program of the mobile stem on an image from a file, without Python, as run_sublayer.cpp does with a sublayer.
//
// run_mobile_stem INPUT OUTPUT: INPUT holds B, rows, columns, dim, channels, count (int32), the sizes of each Block
// (int32) and whether it expands and squeezes, then arrays, each behind its length (int32): first and its bias, mean,
// std, of each block what there is of depthwise, expand, squeeze and excite, project, each with its bias, then the last
// project and its bias, and the image (B, 3, rows, columns). OUTPUT gets the features, channels last, as float32.

#include <cstdio>
#include <vector>

#include "../../vil_tracker/native/mobile_stem.cpp"

int main(int count, char** names) {
  std::FILE* input = count == 3 ? std::fopen(names[1], "rb") : nullptr;
  int32_t sizes[6];
  if (!input || std::fread(sizes, sizeof sizes, 1, input) != 1) return 2;
  const auto [B, rows, columns, dim, channels, blocks] = sizes;
  bool whole = true;
  auto array = [&]() {
    int32_t length = 0;
    whole = whole && std::fread(&length, sizeof length, 1, input) == 1;
    auto* numbers = new std::vector<float>(length);  // the process ends soon
    whole = whole && std::fread(numbers->data(), sizeof(float), length, input) == size_t(length);
    return numbers->data();
  };
  std::vector<Block> all(blocks);
  std::vector<int32_t> has(2 * blocks);
  for (int i = 0; i < blocks; ++i) {
    whole = whole && std::fread(&all[i].inputs, sizeof(int32_t), 8, input) == 8;
    whole = whole && std::fread(&has[2 * i], sizeof(int32_t), 2, input) == 2;
  }
  Stem stem{};
  for (auto part : {&stem.first, &stem.first_bias, &stem.mean, &stem.std}) *part = array();
  for (int i = 0; i < blocks; ++i) {
    Block& block = all[i];
    block.depthwise = array(), block.depthwise_bias = array();
    if (has[2 * i]) block.expand = array(), block.expand_bias = array();
    if (has[2 * i + 1]) {
      for (auto part : {&block.squeeze, &block.squeeze_bias, &block.excite, &block.excite_bias}) *part = array();
    }
    block.project = array(), block.project_bias = array();
  }
  stem.project = array(), stem.project_bias = array();
  stem.blocks = all.data(), stem.count = blocks, stem.channels = channels, stem.dim = dim;

  const int threads = 2;
  const int64_t pixels = int64_t(B) * ((rows + 15) / 16) * ((columns + 15) / 16);
  std::vector<float> out((pixels + spare_rows()) * dim), scratch(stem_scratch(&stem, B, rows, columns));
  const int64_t plane = int64_t(rows) * columns;
  const StemCall call{array(), out.data(), scratch.data(), {3 * plane, plane, columns, 1}, B, rows, columns, threads};
  if (!whole) return 2;
  run_stem(&stem, &call);
  std::FILE* output = std::fopen(names[2], "wb");
  const bool written = output && std::fwrite(out.data(), sizeof(float), pixels * dim, output) == size_t(pixels * dim);
  std::printf("%d lanes\n", LANES);
  return written && std::fclose(output) == 0 ? 0 : 2;
}
