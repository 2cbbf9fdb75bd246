// Runs a fuzz target over its corpus without libFuzzer: every file, every prefix of a small file,
// and every file with one bit flipped in each of its first bytes. With a STRIDE, only each
// STRIDE-th of the prefixes and flips. With SECONDS, then random changes of the files for so long.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
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

// One of: a bit flipped, a byte replaced, a part cut out, a part doubled, the end of another file.
void change(std::string& input, const std::vector<std::string>& corpus, std::mt19937& random) {
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : random() % n; };
  const std::size_t at = below(input.size());
  const std::size_t length = below(std::min<std::size_t>(input.size() - at, 64) + 1);
  switch (random() % 5) {
    case 0:
      if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << random() % 8));
      break;
    case 1:
      if (!input.empty()) input[at] = static_cast<char>(random());
      break;
    case 2:
      input.erase(at, length);
      break;
    case 3:
      input.insert(at, input.substr(at, length));
      break;
    default: {
      const std::string& other = corpus[below(corpus.size())];
      input = input.substr(0, at) + other.substr(below(other.size()));
    }
  }
}

std::size_t run_random(const std::vector<std::string>& corpus, long seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::mt19937 random(1);
  std::size_t n = 0;
  for (; std::chrono::steady_clock::now() < end; ++n) {
    std::string input = corpus[random() % corpus.size()];
    for (std::size_t changes = 1 + random() % 4; changes > 0; --changes) {
      change(input, corpus, random);
    }
    run(input, input.size());
  }
  return n;
}

int run_folder(const std::filesystem::path& folder, std::size_t stride, long seconds) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "%s: no corpus files\n", folder.c_str());
    return 1;
  }
  std::size_t n_inputs = 0;
  std::vector<std::string> corpus;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    n_inputs += run_variants(corpus.back(), stride);
  }
  n_inputs += run_random(corpus, seconds);
  std::printf("%zu files, %zu inputs\n", files.size(), n_inputs);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const long stride = argc >= 3 ? std::strtol(argv[2], nullptr, 10) : 1;
  const long seconds = argc == 4 ? std::strtol(argv[3], nullptr, 10) : 0;
  if (argc < 2 || argc > 4 || stride < 1 || seconds < 0) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER [STRIDE [SECONDS]]\n", argv[0]);
    return 1;
  }
  try {
    return run_folder(argv[1], static_cast<std::size_t>(stride), seconds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
    return 1;
  }
}
