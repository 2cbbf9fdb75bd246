#pragma once
// Events to JSON. A Writer makes an answer in one shape of the API: objects of a stream as events
// come, or one object at the end.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/generation.h"
#include "server/openai/fields.h"

namespace tenfold {

class Writer {
 public:
  // An object of a stream; the Responses API names them.
  struct Part {
    std::string event;
    Json data;
  };

  virtual ~Writer() = default;
  // Before the first event.
  virtual std::vector<Part> begin() = 0;
  virtual std::vector<Part> add(std::size_t index, const GenerationEvent& event) = 0;
  // After the last one.
  virtual std::vector<Part> end() = 0;
  // The whole answer, of all that was added.
  virtual Json whole() = 0;
  // How a stream ends; empty: with nothing.
  virtual std::string last_data() const { return "[DONE]"; }
};

}  // namespace tenfold
