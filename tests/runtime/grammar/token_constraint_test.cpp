#include "runtime/grammar/token_constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/generation.h"
#include "runtime/grammar/gbnf.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/matcher.h"
#include "runtime/session.h"
#include "tests/runtime/grammar/schema_validator.h"
#include "tests/support/expect_error.h"
#include "tests/support/random.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tokenizer_cases.h"

namespace tenfold {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const char* const kSchema = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
  "tags": {"type": "array", "items": {"enum": ["a", "bé", "c🙂"]}, "maxItems": 3},
  "more": {"anyOf": [{"type": "null"}, {"type": "number"}]}}, "required": ["name", "age", "more"]})";

std::vector<TokenId> allowed_by_mask(const TokenConstraint& constraint, std::size_t n) {
  std::vector<float> logits(n, 1.0f);
  constraint.mask(logits);
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < n; ++i) {
    if (logits[i] != -kInfinity) ids.push_back(static_cast<TokenId>(i));
  }
  return ids;
}

class TokenConstraintTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer() const {
    if (std::string_view(GetParam()) == "bpe") return make_bpe_tokenizer(tiny_bpe(), "tiny");
    return load_sentencepiece(tokenizer_data() / GetParam());
  }
};

// At random places of random texts the mask is what allows() says token by token, which is what a
// matcher says of the text so far.
TEST_P(TokenConstraintTest, MaskIsAllowsIsTheMatcher) {
  const auto model = tokenizer();
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  const auto n = static_cast<std::size_t>(model->vocab_size);
  std::mt19937 rng(5);
  const std::pair<const char*, std::shared_ptr<const Grammar>> grammars[] = {
      {"schema", json_schema_grammar(Json::parse(kSchema))},
      {"object", json_object_grammar()},
      {"spaces", parse_gbnf("root ::= \" \"? \" \"? [a-zé ]* (\"x\" | \".\")")}};
  for (const auto& [name, grammar] : grammars) {
    for (int round = 0; round < 6; ++round) {
      TokenConstraint constraint(grammar, pieces);
      StreamDecoder decoder(*model);
      std::string text;
      const GrammarMatcher whole(grammar);
      for (int step = 0; step < 25 && !constraint.finished(); ++step) {
        const std::vector<TokenId> ids = allowed_by_mask(constraint, n + 7);
        ASSERT_FALSE(ids.empty());
        std::vector<TokenId> expected;
        for (TokenId id = 0; id < static_cast<TokenId>(n + 7); ++id) {
          if (constraint.allows(id)) expected.push_back(id);
        }
        ASSERT_EQ(ids, expected) << name << " after " << text;
        const TokenId token = ids[rng() % ids.size()];
        constraint.accept(token);
        text += decoder.push(token);
        ASSERT_TRUE(whole.accepts(text)) << name << ": " << text;
      }
      if (!constraint.finished()) continue;
      EXPECT_TRUE(constraint.at_end());
      text += decoder.finish();
      GrammarMatcher end = whole;
      end.advance(text);
      EXPECT_TRUE(end.at_end()) << text;
    }
  }
}

// A token is refused exactly where the shown text would leave the grammar.
TEST_P(TokenConstraintTest, AppliesToTheTextAsShown) {
  const auto model = tokenizer();
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  const auto grammar = parse_gbnf("root ::= [a-z]+ \" \" [a-z]+");
  const GrammarMatcher whole(grammar);
  const TokenConstraint start(grammar, pieces);
  for (TokenId first = 0; first < model->vocab_size; ++first) {
    const std::vector<TokenId> ids = {first};
    const std::string text = model->decode(ids);
    EXPECT_EQ(start.allows(first), !model->piece(first).empty() && whole.accepts(text))
        << first << ": " << text;
  }
  for (const TokenId end : model->end_of_generation) EXPECT_FALSE(start.allows(end));
  EXPECT_FALSE(start.allows(-1));
  EXPECT_FALSE(start.allows(static_cast<TokenId>(model->vocab_size)));
}

TEST_P(TokenConstraintTest, ATextEncodedIsATextAllowed) {
  const auto model = tokenizer();
  if (model->end_of_generation.empty()) model->end_of_generation = {*model->token_to_id("Z")};
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  const std::string text = R"({"name":"aé🙂","age":12,"tags":["bé", "c🙂"],"more":null})";
  TokenConstraint constraint(json_schema_grammar(Json::parse(kSchema)), pieces);
  for (const TokenId id : model->encode(text, {})) {
    ASSERT_TRUE(constraint.allows(id)) << id;
    ASSERT_FALSE(constraint.finished());
    constraint.accept(id);
  }
  EXPECT_TRUE(constraint.finished());
  ASSERT_FALSE(model->end_of_generation.empty());
  const TokenId end = model->end_of_generation[0];
  const TokenConstraint complete = constraint;
  EXPECT_EQ(allowed_by_mask(complete, static_cast<std::size_t>(model->vocab_size)),
            model->end_of_generation);
  constraint.accept(end);
  EXPECT_TRUE(constraint.at_end());
  EXPECT_FALSE(constraint.allows(end));
  std::vector<float> logits(10);
  EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { constraint.mask(logits); }),
              HasSubstr("has ended"));
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, TokenConstraintTest,
                         ::testing::Values("bpe", "tiny-sentencepiece-bpe.model"),
                         [](const auto& model) {
                           return model.index == 0 ? "Bpe" : "SentencePiece";
                         });

TEST(TokenConstraint, FailsClosedWhereNoTokenFits) {
  const auto model = make_bpe_tokenizer(tiny_bpe(), "tiny");  // has no byte 0x7F
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  const TokenConstraint constraint(parse_gbnf("root ::= \"\\x7F\""), pieces);
  std::vector<float> logits(static_cast<std::size_t>(model->vocab_size));
  EXPECT_EQ(expect_error(ErrorCode::bad_request, [&] { constraint.mask(logits); }),
            "the grammar allows no token of the model's vocabulary here");
  TokenConstraint other(parse_gbnf("root ::= \"a\""), pieces);
  EXPECT_THAT(expect_error(ErrorCode::bad_request, [&] { other.accept(0); }),
              HasSubstr("does not allow token 0"));
}

// So many states that masks are made while some are forgotten.
TEST(TokenConstraint, LongTextsWithManyStates) {
  const auto model = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  std::string grammar = "root ::= n{30000}\nn ::= ";
  for (char c = 'a'; c <= 'z'; ++c) grammar += std::string(c == 'a' ? "\"" : " | \"") + c + '"';
  const auto compiled = parse_gbnf(grammar + " | [ -`] | \"{\" | \"}\" | \"~\"");
  TokenConstraint constraint(compiled, pieces);
  std::mt19937 rng(9);
  const auto n = static_cast<std::size_t>(model->vocab_size);
  std::string text;
  for (int step = 0; !constraint.finished(); ++step) {
    TokenId token = 0;
    if (step % 40 == 0) {
      const std::vector<TokenId> ids = allowed_by_mask(constraint, n);
      token = ids[rng() % ids.size()];
      for (TokenId id = 0; step % 2000 == 0 && id < static_cast<TokenId>(n); ++id) {
        ASSERT_EQ(constraint.allows(id), std::ranges::count(ids, id) == 1);
      }
    } else {
      do token = static_cast<TokenId>(rng() % n);
      while (!constraint.allows(token));
    }
    constraint.accept(token);
    text += model->piece(token);
  }
  EXPECT_EQ(text.size(), 30000u);
}

// The probabilities of tokens 0 to 4 of a vocabulary with the bytes' tokens, of which the grammar
// takes three.
TEST(TokenConstraint, SamplingFollowsTheMaskedDistribution) {
  const auto model = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto pieces = std::make_shared<const VocabularyPieces>(*model);
  const TokenConstraint constraint(parse_gbnf("root ::= [a-c]"), pieces);
  const TokenId a = *model->token_to_id("a"), b = *model->token_to_id("b"),
                d = *model->token_to_id("d");
  std::vector<float> logits(static_cast<std::size_t>(model->vocab_size), -kInfinity);
  logits[static_cast<std::size_t>(a)] = std::log(0.2f);
  logits[static_cast<std::size_t>(b)] = std::log(0.1f);
  logits[static_cast<std::size_t>(d)] = std::log(0.7f);
  SamplerOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = 3;
  Sampler sampler(options), again(options);
  const int n = 20000;
  int n_a = 0;
  for (int i = 0; i < n; ++i) {
    const TokenId token = sampler.sample(logits, &constraint);
    ASSERT_EQ(token, again.sample(logits, &constraint));
    ASSERT_TRUE(token == a || token == b);
    n_a += token == a ? 1 : 0;
  }
  EXPECT_NEAR(n_a / static_cast<double>(n), 2.0 / 3, 5 * std::sqrt(2.0 / 9 / n));
  options.temperature = 0;
  EXPECT_EQ(Sampler(options).sample(logits, &constraint), a);
  EXPECT_EQ(Sampler(options).sample(logits), d);
  options.logit_bias = {{a, -100.0f}, {b, -100.0f}};
  EXPECT_THROW(Sampler(options).sample(logits, &constraint), Error);
}

// The path of the server.
TEST(TokenConstraint, AGenerationEndsWhereTheGrammarDoes) {
  const auto model = make_bpe_tokenizer(tiny_bpe(), "tiny");
  const auto logits = [n = model->vocab_size] {
    static std::uint32_t seed = 0;
    return random_floats(static_cast<std::size_t>(n), ++seed);
  };
  const Json schema = Json::parse(kSchema);
  for (int round = 0; round < 20; ++round) {
    GenerationRequest request;
    request.prompt = model->encode("a", {});
    request.options.grammar = json_schema_grammar(schema);
    request.options.sampler.seed = static_cast<std::uint64_t>(round);
    Generation generation(request, model.get());
    std::string text;
    std::optional<FinishReason> finish;
    while (!finish) {
      const GenerationEvent event = generation.next(logits(), true);
      text += event.text;
      finish = event.finish;
    }
    if (finish == FinishReason::length) continue;
    EXPECT_EQ(finish, FinishReason::stop);
    EXPECT_TRUE(testing::is_valid(Json::parse(text), schema, schema)) << text;
    request.options.grammar = parse_gbnf("root ::= \"\"");
    EXPECT_EQ(Generation(request, model.get()).next(logits(), true).finish, FinishReason::stop);
  }
}

class ConstrainedGeneration : public ::testing::Test {
 protected:
  const testing::ScratchFolder folder_;
  LoadedModel model_{testing::tiny_model(folder_)};
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(ModelSource(folder_ / "tiny"));
  const std::vector<TokenId> prompt_ = {101, 102, 103};

  GenerateResult run(const GenerateOptions& options) {
    Session session(*model_.model, model_.ws, 256, KvType::f32);
    return generate(session, tokenizer_.get(), prompt_, options, {});
  }
};

TEST_F(ConstrainedGeneration, AlwaysValidates) {
  const Json schema = Json::parse(kSchema);
  GenerateOptions options;
  options.grammar = json_schema_grammar(schema);
  options.pieces = std::make_shared<const VocabularyPieces>(*tokenizer_);
  options.max_tokens = 250;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    options.sampler = SamplerOptions{};
    options.sampler.seed = seed;
    if (seed == 0) options.sampler.temperature = 0;
    if (seed % 3 == 1) options.sampler.top_k = 0;
    if (seed % 4 == 1) options.sampler.temperature = 5;
    const GenerateResult result = run(options);
    ASSERT_EQ(result.finish, FinishReason::stop) << result.text;
    ASSERT_TRUE(testing::is_valid(Json::parse(result.text), schema, schema)) << result.text;
    EXPECT_EQ(run(options).text, result.text);
  }
}

TEST_F(ConstrainedGeneration, EndsWhereTheGrammarDoes) {
  GenerateOptions options;
  options.grammar = parse_gbnf("root ::= \"yes\" | \"no\"");
  options.ignore_eos = true;
  options.max_tokens = 3;
  const GenerateResult result = run(options);
  EXPECT_EQ(result.finish, FinishReason::stop);
  EXPECT_TRUE(result.text == "yes" || result.text == "no") << result.text;
  options.grammar = parse_gbnf("root ::= \"\"");
  EXPECT_EQ(run(options).text, "");
  options.grammar = parse_gbnf("root ::= [a-z]{9}");
  const GenerateResult cut = run(options);
  EXPECT_EQ(cut.finish, FinishReason::length);
  EXPECT_EQ(cut.text.size(), 3u);
  Session session(*model_.model, model_.ws, 256, KvType::f32);
  EXPECT_THAT(expect_error(ErrorCode::bad_request,
                           [&] { generate(session, nullptr, prompt_, options, {}); }),
              HasSubstr("a grammar needs a tokenizer"));
}

}  // namespace
}  // namespace tenfold
