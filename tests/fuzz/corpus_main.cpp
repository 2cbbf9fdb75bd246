// Runs a fuzz target over its corpus without libFuzzer: every file, every prefix of a small file,
// and every file with one bit flipped in each of its first bytes. With a STRIDE, only each
// STRIDE-th of the prefixes and flips.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxPrefixes = 4096;
constexpr std::size_t kMaxFlips = 512;

// In a block of exactly its size, so that AddressSanitizer sees any over-read.
void run(const std::string& input, std::size_t size) {
  const auto exact = std::make_unique<std::uint8_t[]>(size);
  if (size != 0) std::memcpy(exact.get(), input.data(), size);
  LLVMFuzzerTestOneInput(exact.get(), size);
}

std::size_t run_variants(std::string input, std::size_t stride) {
  run(input, input.size());
  std::size_t n = 1;
  if (input.size() <= kMaxPrefixes) {
    for (std::size_t size = 0; size < input.size(); size += stride, ++n) run(input, size);
  }
  for (std::size_t i = 0; i < std::min(input.size(), kMaxFlips); i += stride, ++n) {
    const char original = input[i];
    input[i] = static_cast<char>(original ^ (1 << i % 8));
    run(input, input.size());
    input[i] = original;
  }
  return n;
}

int run_folder(const std::filesystem::path& folder, std::size_t stride) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "%s: no corpus files\n", folder.c_str());
    return 1;
  }
  std::size_t n_inputs = 0;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    n_inputs += run_variants({std::istreambuf_iterator<char>(in), {}}, stride);
  }
  std::printf("%zu files, %zu inputs\n", files.size(), n_inputs);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const long stride = argc == 3 ? std::strtol(argv[2], nullptr, 10) : 1;
  if (argc < 2 || argc > 3 || stride < 1) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER [STRIDE]\n", argv[0]);
    return 1;
  }
  try {
    return run_folder(argv[1], static_cast<std::size_t>(stride));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
    return 1;
  }
}
