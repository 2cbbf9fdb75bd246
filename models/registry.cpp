#include <fmt/core.h>

#include <array>
#include <cctype>

#include "kernels/error.h"
#include "models/family.h"
#include "runtime/files/json_file.h"

namespace tenfold {
namespace {

constexpr std::array<const Family*, 2> kFamilies = {&kLlama, &kOpt};

std::string known_architectures() {
  std::string names;
  for (const Family* family : kFamilies) {
    names += (names.empty() ? "" : ", ") + std::string(family->architecture);
  }
  return names;
}

// "blk.3.attn_q" -> "blk.{}.attn_q" and "3".
std::string split_layer(std::string_view name, std::string& layer) {
  constexpr std::string_view kBlock = "blk.";
  if (name.substr(0, kBlock.size()) != kBlock) return std::string(name);
  std::size_t end = kBlock.size();
  while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
  layer = std::string(name.substr(kBlock.size(), end - kBlock.size()));
  return "blk.{}" + std::string(name.substr(end));
}

// "model." left out; empty where the family has no such tensor.
std::string bare_name(const Family& family, std::string_view gguf_name) {
  const std::size_t dot = gguf_name.rfind('.');
  std::string layer;
  const std::string stem = split_layer(gguf_name.substr(0, dot), layer);
  for (const TensorName& tensor : family.tensors) {
    if (tensor.gguf != stem) continue;
    std::string name(tensor.hugging_face);
    if (const std::size_t hole = name.find("{}"); hole != std::string::npos) {
      name.replace(hole, 2, layer);
    }
    return name + std::string(gguf_name.substr(dot));
  }
  return {};
}

}  // namespace

const Family& find_family(const ModelSource& source) {
  std::string architecture;
  if (source.is_gguf()) {
    const std::string* name = source.gguf().metadata().get_string("general.architecture");
    if (name == nullptr) throw_file_error(source.path(), "the key general.architecture is missing");
    architecture = *name;
  } else {
    architecture =
        json_string_or(source.config(), "model_type", "", source.path() + "/config.json");
    if (architecture.empty()) {
      throw_file_error(source.path() + "/config.json", "the key model_type is missing");
    }
  }
  for (const Family* family : kFamilies) {
    if (architecture == family->architecture) return *family;
  }
  throw_error(ErrorCode::unsupported,
              "{}: the architecture \"{}\" is not supported; Tenfold runs {}", source.path(),
              architecture, known_architectures());
}

DecoderSpec read_spec(const Family& family, const ModelSource& source) {
  DecoderSpec spec;
  if (source.is_gguf()) {
    spec = family.from_gguf(source);
    const std::string* name = source.gguf().metadata().get_string("general.name");
    spec.name = name != nullptr ? *name : std::filesystem::path(source.path()).stem().string();
    spec.rope.interleaved = family.gguf_interleaves_rope;
  } else {
    spec = family.from_config(source.config(), source.path() + "/config.json");
    const auto folder = std::filesystem::path(source.path()).lexically_normal();
    spec.name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  }
  spec.architecture = family.architecture;
  spec.validate(source.path());
  return spec;
}

const TensorSource* find_tensor(const Family& family, const ModelSource& source,
                                std::string_view gguf_name) {
  if (source.is_gguf()) return source.find(gguf_name);
  const std::string name = bare_name(family, gguf_name);
  if (name.empty()) return nullptr;
  for (const std::string_view prefix : family.hf_prefixes) {
    if (const TensorSource* found = source.find(std::string(prefix) + name)) return found;
  }
  return nullptr;
}

std::string hugging_face_name(const Family& family, std::string_view gguf_name) {
  const std::string name = bare_name(family, gguf_name);
  // The head is no part of the inner model.
  return name.starts_with("lm_head.") ? name : std::string(family.hf_prefixes.front()) + name;
}

std::int64_t gguf_int(const ModelSource& source, const std::string& key) {
  const auto value = source.gguf().metadata().get_int(key);
  if (!value) throw_file_error(source.path(), "the key {} is missing", key);
  return *value;
}

}  // namespace tenfold
