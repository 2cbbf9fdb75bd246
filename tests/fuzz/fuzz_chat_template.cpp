// The input is a template; it is rendered with a conversation and a tool. Only Error may come out.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "kernels/error.h"
#include "runtime/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto variables = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "Be brief. \ud83d\ude42"},
                 {"role": "user", "content": " h\u00e9 \n"},
                 {"role": "assistant", "content": "", "tool_calls": [
                   {"id": "a", "function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  try {
    const std::string_view source(reinterpret_cast<const char*>(data), size);
    tenfold::ChatTemplate(source).render(variables);
  } catch (const tenfold::Error&) {
  }
  return 0;
}
