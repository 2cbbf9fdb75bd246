#pragma once
// The tensors of a decoder: which there are, where a source has them, and their rows as float32.
// Loading, converting and quantizing all start here. Missing tensors and wrong shapes are bad_file
// naming the tensor, expected and found.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/matrix.h"
#include "models/family.h"
#include "models/spec.h"

namespace tenfold {

struct TensorShape {
  std::string name;  // as GGUF calls it
  std::vector<std::int64_t> shape;
  bool required;
  bool by_row = false;  // rows are looked up one by one, so columns cannot have an input map

  bool is_matrix() const noexcept { return shape.size() == 2; }
};
// All tensors a decoder of this spec may have, in file order.
std::vector<TensorShape> decoder_tensors(const DecoderSpec& spec);

// A weight as its file holds it: one of the two is set.
struct SourceWeight {
  const TensorSource* tensor = nullptr;  // plain
  const MatrixView* packed = nullptr;    // bands of our own GGUF
  std::int64_t elements() const noexcept;
  std::uint64_t bytes() const noexcept;
  bool quantized() const noexcept;  // packed, or of a block type
  std::string type_text() const;    // "F16", "Q4_1", "q4 g128 zero"
};

// The weight, its shape and type checked; nullopt where it is absent and not required.
std::optional<SourceWeight> find_weight(const Family& family, const ModelSource& source,
                                        const TensorShape& expected);

// Reads rows of a weight in GGUF's order: q and k of Hugging Face's llama are permuted from
// (i, i + half) pairs to (2i, 2i + 1). Columns are in the model's order, an input map undone.
class RowReader {
 public:
  // interleave_heads > 0: rows are permuted within each of so many heads.
  RowReader(SourceWeight weight, std::int64_t interleave_heads);

  // A vector is one row, unless its elements are permuted.
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t cols() const noexcept { return cols_; }
  const SourceWeight& weight() const noexcept { return weight_; }
  bool permuted() const noexcept { return interleave_heads_ > 0; }
  // out, scratch: [cols]. Any number of threads, each with its own scratch.
  void read(std::int64_t row, float* out, float* scratch) const noexcept;
  // The weight is not read again soon: its pages of the mapped file may go.
  void release() const noexcept;

 private:
  std::int64_t source_row(std::int64_t row) const noexcept;

  SourceWeight weight_;
  std::int64_t interleave_heads_, rows_, cols_;
};

// All rows, one after the other: [rows(), cols()].
void read_all(const RowReader& rows, float* out);

// Heads within which Hugging Face keeps a tensor's rows as (i, i + half) pairs and GGUF as
// (2i, 2i + 1); 0: both the same. And those whose rows the source has in another order than GGUF.
std::int64_t rotated_heads(const Family& family, const DecoderSpec& spec, std::string_view name);
std::int64_t interleave_heads(const Family& family, const DecoderSpec& spec,
                              const ModelSource& source, const std::string& name);

struct ModelTensor {
  TensorShape info;
  RowReader rows;
};
// Those the source has, in file order, as a GGUF of this family wants their rows.
std::vector<ModelTensor> read_tensors(const Family& family, const DecoderSpec& spec,
                                      const ModelSource& source);

}  // namespace tenfold
