#pragma once
// From generated tokens to what a reader may see: whole UTF-8 characters, ending before a stop
// string, and with each text the records of the tokens whose text begins in it.

#include <string>
#include <vector>

#include "runtime/log_probs.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer.h"

namespace tenfold {

class Answer {
 public:
  Answer(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : decoder_(tokenizer), stops_(std::move(stops)) {}

  struct Part {
    std::string text;
    std::vector<TokenLogprob> tokens;
    bool stopped = false;  // a stop string was completed; the answer ends here
  };
  // Takes the token's record along; leave it out where nobody wants them.
  Part push(TokenId token, const TokenLogprob* record = nullptr);
  Part finish();  // what was held back

 private:
  Part release(StopMatcher::Result safe);

  StreamDecoder decoder_;
  StopMatcher stops_;
  struct Held {
    TokenLogprob record;
    std::size_t begin;  // where its text begins in the answer, in bytes
  };
  std::vector<Held> held_;
  std::size_t decoded_ = 0, released_ = 0;  // bytes
};

}  // namespace tenfold
