#include "quantizer/checkpoint.h"

#include "kernels/error.h"
#include "runtime/files/output_file.h"

namespace tenfold {
namespace {

constexpr const char* kIdentityFile = "identity.json";

std::filesystem::path work_folder(const std::filesystem::path& output) {
  return output.string() + ".work";
}

std::string read_all(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& output, const std::string& identity,
                       Start start, bool replace)
    : folder_(work_folder(output)) {
  if (start == Start::resume && std::filesystem::exists(folder_ / kIdentityFile)) {
    if (read_all(folder_ / kIdentityFile) == identity) return;
    if (!replace)
      throw_error(
          ErrorCode::bad_request,
          "{} holds the work of another recipe, source or calibration text: go on with those, "
          "or start anew with --force",
          folder_.string());
  }
  if (!replace) refuse_leftovers(output);
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
  std::filesystem::create_directory(folder_, error);
  if (error) {
    throw_error(ErrorCode::io, "{}: cannot be made: {}", folder_.string(), error.message());
  }
  OutputFile file(folder_ / kIdentityFile, true);
  file.write(identity);
  file.commit();
}

void Checkpoint::refuse_leftovers(const std::filesystem::path& output) {
  const std::filesystem::path folder = work_folder(output);
  if (!std::filesystem::exists(folder / kIdentityFile)) return;
  throw_error(ErrorCode::bad_request,
              "{} holds the work of an interrupted run: --resume goes on with it, --force starts "
              "anew",
              folder.string());
}

std::filesystem::path Checkpoint::layer_path(std::int64_t index) const {
  return folder_ / fmt::format("layer-{}.bin", index);
}

std::filesystem::path Checkpoint::note_path(std::int64_t index) const {
  return folder_ / fmt::format("layer-{}.json", index);
}

std::string Checkpoint::note(std::int64_t index) const { return read_all(note_path(index)); }

std::optional<MappedFile> Checkpoint::layer(std::int64_t index) const {
  const std::filesystem::path path = layer_path(index);
  if (!std::filesystem::exists(path)) return std::nullopt;
  return MappedFile(path);
}

void Checkpoint::save(std::int64_t index, const std::vector<std::span<const std::byte>>& parts,
                      const std::string& note) const {
  OutputFile notes(note_path(index), true);  // first: a layer's file says that it is complete
  notes.write(note);
  notes.commit();
  OutputFile file(layer_path(index), true);
  for (const auto& part : parts) file.write(part);
  file.commit();
}

void Checkpoint::remove() noexcept {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace tenfold
