#pragma once
// The text a quantizer looks at: sequences of tokens drawn from a file, the same for the same file
// and seed.

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/model_source.h"
#include "runtime/tokenizer.h"

namespace tenfold {

struct CalibrationOptions {
  std::string file;  // UTF-8 text, or JSON lines with a "text" field (.jsonl); empty: none
  std::int64_t sequences = 128;
  std::int64_t length = 512;  // tokens of a sequence
  std::uint64_t seed = 0;
};

struct Calibration {
  std::vector<std::vector<TokenId>> sequences;
  std::uint64_t hash = 0;  // of all ids in order (FNV-1a): says which data a file was made with

  std::int64_t tokens() const noexcept;
};

// How many of so many sequences, the last ones, are held out: an eighth; none of a lone one.
std::int64_t held_out_sequences(std::int64_t sequences) noexcept;

// The documents of a calibration file joined by blank lines. Throws bad_file naming the line that
// is no JSON object with a "text".
std::string calibration_text(const std::string& path);

// The text is cut into windows of `length` tokens, and `sequences` of them are drawn without
// replacement. BOS comes first in each where the tokenizer adds one. Throws bad_request where the
// text holds fewer.
Calibration draw_calibration(const Tokenizer& tokenizer, const std::string& text,
                             const CalibrationOptions& options);
// From options.file by the model's tokenizer. Throws bad_request where it has none.
Calibration draw_calibration(const ModelSource& source, const CalibrationOptions& options);

}  // namespace tenfold
