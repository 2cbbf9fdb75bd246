#include "models/convert.h"

#include <span>

#include "kernels/error.h"
#include "models/gguf_output.h"
#include "models/rotate.h"

namespace tenfold {
namespace {

std::uint32_t file_type(DType type) {
  return type == DType::f32 ? 0u : type == DType::f16 ? 1u : 32u;  // llama.cpp's LLAMA_FTYPE_*
}

std::uint64_t bytes_of(const GgufTensorDecl& decl) {
  std::uint64_t elements = 1;
  for (const std::int64_t extent : decl.shape) elements *= static_cast<std::uint64_t>(extent);
  return elements * dtype_traits(decl.dtype).bytes;
}

}  // namespace

ConvertResult convert_to_gguf(const ModelSource& source, const std::filesystem::path& output,
                              const ConvertOptions& options,
                              const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
  const Family& family = find_family(source);
  const DecoderSpec spec = read_spec(family, source);
  const std::vector<ModelTensor> tensors = read_tensors(family, spec, source);
  const std::vector<float> divisors = rope_divisors(spec);
  ConvertResult result;
  std::optional<RotatedModel> rotated;
  if (options.rotate) rotated.emplace(spec, tensors, *options.rotate);
  std::vector<TensorShape> shapes;
  if (rotated) {
    shapes = rotated->tensors();
  } else {
    for (const ModelTensor& tensor : tensors) shapes.push_back(tensor.info);
  }
  std::vector<GgufTensorDecl> decls;
  for (const TensorShape& tensor : shapes) {
    decls.push_back({tensor.name, tensor.shape, tensor.is_matrix() ? options.type : DType::f32});
  }
  if (!divisors.empty()) {
    decls.push_back({kRopeDivisorsName, {static_cast<std::int64_t>(divisors.size())}, DType::f32});
  }
  for (const GgufTensorDecl& decl : decls) result.bytes += bytes_of(decl);
  result.tensors = static_cast<std::int64_t>(decls.size());
  GgufMetadata metadata = model_metadata(family, spec, source);
  metadata.set("general.file_type", file_type(options.type));
  // llama-quantize writes broken files from any other alignment than the default.
  metadata.set("general.alignment", std::uint32_t{32});
  GgufWriter writer(output, options.overwrite, std::move(metadata), decls);
  std::uint64_t done = 0;
  ThreadPool pool(rotated ? default_thread_count() : 1);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (rotated) {
      rotated->read(shapes[i], pool, [&](std::span<const float> values) {
        std::vector<std::byte> bytes;
        result.clipped += append_values(values, decls[i].dtype, bytes);
        writer.write(bytes);
      });
    } else {
      result.clipped += write_rows(tensors[i].rows, decls[i].dtype, writer);
    }
    done += bytes_of(decls[i]);
    if (progress && !progress(done, result.bytes)) {
      throw_error(ErrorCode::cancelled, "interrupted; {} was not written", output.string());
    }
  }
  if (!divisors.empty()) writer.write(std::as_bytes(std::span(divisors)));
  writer.finish();
  return result;
}

}  // namespace tenfold
