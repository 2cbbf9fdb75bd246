// Requests and answers on a tiny model, without sockets.

#include "server/service.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "runtime/grammar/matcher.h"
#include "runtime/session.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/step.h"
#include "tests/support/tiny_model.h"

namespace tenfold {
namespace {

using namespace std::chrono_literals;

// One with room for what a model is told of tools.
void make_long_model(const testing::ScratchFolder& folder) {
  const auto config = testing::tiny_model(folder, "llama-gqa-rope3-tied") / "config.json";
  Json json = Json::parse(std::ifstream(config));
  json["max_position_embeddings"] = 2048;
  std::ofstream(config) << json;
}

class ServiceTest : public ::testing::Test {
 protected:
  explicit ServiceTest(bool long_context = false)
      : loaded_((long_context ? make_long_model(folder_) : void(testing::tiny_model(folder_)),
                 folder_ / "tiny")),
        tokenizer_(load_tokenizer(ModelSource(folder_ / "tiny"))) {
    EngineOptions options;
    options.queue = 4;
    options.scheduler.parallel = 2;
    engine_ = std::make_unique<Engine>(*loaded_.model, loaded_.ws, *tokenizer_, options);
    make({});
  }

  void make(ServiceOptions options) {
    options.names = {"tiny", "other-name"};
    service_ = std::make_unique<Service>(std::move(options));
    service_->set_model({engine_.get(), tokenizer_.get(), &loaded_.model->info()});
  }

  static HttpRequest request(std::string method, std::string path, std::string body = {}) {
    HttpRequest r;
    r.method = std::move(method);
    r.path = std::move(path);
    r.body = std::move(body);
    r.host = "localhost:8080";
    r.client_gone = [] { return false; };
    return r;
  }
  HttpReply get(const std::string& path) { return service_->handle(request("GET", path)); }
  HttpReply post(const std::string& path, const Json& body) {
    return service_->handle(request("POST", path, body.dump()));
  }
  Json ask(const std::string& path, const Json& body) {
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return Json::parse(reply.body);
  }
  // The error's message; checks the status and shape.
  std::string refused(const std::string& path, const Json& body, int status = 400,
                      const std::string& param = {}) {
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.status, status) << body.dump() << reply.body;
    const Json error = Json::parse(reply.body).at("error");
    if (!param.empty()) {
      EXPECT_EQ(error.at("param"), param) << reply.body;
    }
    EXPECT_EQ(error.size(), 4u);
    return error.at("message");
  }
  static std::vector<Json> stream(const HttpReply& reply, std::string* last = nullptr) {
    EXPECT_EQ(reply.type, "text/event-stream");
    std::string text;
    while (const auto piece = reply.next()) text += *piece;
    std::vector<Json> parts;
    std::size_t at = 0;
    while ((at = text.find("data: ", at)) != std::string::npos) {
      const std::size_t end = text.find("\n\n", at);
      const std::string data = text.substr(at + 6, end - at - 6);
      at = end;
      if (last != nullptr) *last = data;
      if (data != "[DONE]") parts.push_back(Json::parse(data));
    }
    return parts;
  }
  std::string alone(const std::string& prompt, std::int64_t n) {
    Session session(*loaded_.model, loaded_.ws, 0, KvType::f16);
    GenerateOptions options;
    options.sampler.temperature = 0;
    options.max_tokens = n;
    return generate(session, tokenizer_.get(), tokenizer_->encode(prompt, {true, true}), options,
                    {})
        .text;
  }
  Json user(const std::string& text) {
    return Json::array({{{"role", "user"}, {"content", text}}});
  }

  testing::ScratchFolder folder_;
  LoadedModel loaded_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Service> service_;
};

std::string replaced(const std::string& text) {
  return Json::parse(dump(Json(text))).get<std::string>();
}

TEST_F(ServiceTest, CompletionsSayWhatTheModelSaysAlone) {
  const Json answer =
      ask("/v1/completions",
          {{"model", "tiny"}, {"prompt", "once upon"}, {"max_tokens", 9}, {"temperature", 0}});
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "tiny");
  EXPECT_EQ(answer["choices"].size(), 1u);
  EXPECT_EQ(answer["choices"][0]["text"], replaced(alone("once upon", 9)));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 10);  // with BOS
  EXPECT_EQ(answer["usage"]["completion_tokens"], 9);
  EXPECT_EQ(answer["usage"]["total_tokens"], 19);
}

TEST_F(ServiceTest, AStreamHasTheSameTextAndUsage) {
  const Json body = {{"prompt", "once upon"}, {"max_tokens", 20}, {"temperature", 0}};
  const Json whole = ask("/v1/completions", body);
  Json streamed = body;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  std::string last;
  const std::vector<Json> parts = stream(post("/v1/completions", streamed), &last);
  EXPECT_EQ(last, "[DONE]");
  std::string text;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    EXPECT_TRUE(parts[i]["usage"].is_null());
    text += parts[i]["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, whole["choices"][0]["text"]);
  EXPECT_EQ(parts[parts.size() - 2]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(parts.back()["choices"].empty());
  EXPECT_EQ(parts.back()["usage"]["completion_tokens"], 20);
}

TEST_F(ServiceTest, SeveralPromptsAndAnswersKeepTheirOrder) {
  const Json answer = ask("/v1/completions", {{"prompt", {"abc", "xyz"}},
                                              {"n", 2},
                                              {"max_tokens", 6},
                                              {"temperature", 1},
                                              {"seed", 7},
                                              {"ignore_eos", true}});
  ASSERT_EQ(answer["choices"].size(), 4u);
  EXPECT_NE(answer["choices"][0]["text"], answer["choices"][1]["text"]);
  const Json second = ask("/v1/completions", {{"prompt", "xyz"},
                                              {"n", 2},
                                              {"max_tokens", 6},
                                              {"temperature", 1},
                                              {"seed", 7},
                                              {"ignore_eos", true}});
  EXPECT_EQ(answer["choices"][2]["text"], second["choices"][0]["text"]);
  EXPECT_EQ(answer["choices"][3]["text"], second["choices"][1]["text"]);
  EXPECT_EQ(answer["choices"][3]["index"], 3);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 8);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 24);
}

// What lm-evaluation-harness reads.
TEST_F(ServiceTest, EchoScoresThePrompt) {
  const Json answer = ask("/v1/completions", {{"prompt", {{2, 70, 71, 72}}},
                                              {"max_tokens", 1},
                                              {"temperature", 0},
                                              {"logprobs", 1},
                                              {"echo", true}});
  const Json& logprobs = answer["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), 5u);
  EXPECT_EQ(logprobs["tokens"][1], "B");
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  for (std::size_t i = 1; i < 5; ++i) {
    EXPECT_LT(logprobs["token_logprobs"][i].get<double>(), 0);
    // The token itself is always there, beside the likeliest.
    EXPECT_EQ(logprobs["top_logprobs"][i][logprobs["tokens"][i].get<std::string>()],
              logprobs["token_logprobs"][i]);
  }
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  EXPECT_EQ(answer["choices"][0]["text"].get<std::string>().rfind("</s>BCD", 0), 0u);
  const Json scored =
      ask("/v1/completions",
          {{"prompt", {{2, 70, 71, 72}}}, {"max_tokens", 0}, {"logprobs", 0}, {"echo", true}});
  EXPECT_EQ(scored["choices"][0]["logprobs"]["tokens"].size(), 4u);
  EXPECT_EQ(scored["choices"][0]["logprobs"]["token_logprobs"][3], logprobs["token_logprobs"][3]);
}

TEST_F(ServiceTest, ChatHasItsShape) {
  const Json body = {{"model", "tiny"},
                     {"messages", user("hello")},
                     {"max_completion_tokens", 8},
                     {"temperature", 0},
                     {"logprobs", true},
                     {"top_logprobs", 2},
                     {"user", "someone"},
                     {"store", false},
                     {"metadata", {{"a", "b"}}},
                     {"service_tier", "auto"}};
  const Json answer = ask("/v1/chat/completions", body);
  EXPECT_EQ(answer["object"], "chat.completion");
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], replaced(alone("User: hello\nAssistant:", 8)));
  const Json& records = choice["logprobs"]["content"];
  ASSERT_EQ(records.size(), 8u);
  EXPECT_EQ(records[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(records[0]["top_logprobs"][0]["token"], records[0]["token"]);
  std::string bytes;
  for (const Json& record : records) {
    for (const Json& byte : record["bytes"]) bytes += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(replaced(bytes), choice["message"]["content"]);
}

TEST_F(ServiceTest, AChatStreamBeginsWithTheRole) {
  const std::vector<Json> parts = stream(
      post("/v1/chat/completions",
           {{"messages", user("hi")}, {"max_tokens", 5}, {"n", 2}, {"seed", 1}, {"stream", true}}));
  EXPECT_EQ(parts[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(parts[1]["choices"][0]["index"], 1);
  int ends = 0;
  for (const Json& part : parts) {
    EXPECT_EQ(part["id"], parts[0]["id"]);
    EXPECT_EQ(part["object"], "chat.completion.chunk");
    EXPECT_FALSE(part.contains("usage"));
    ends += part["choices"][0]["finish_reason"].is_null() ? 0 : 1;
  }
  EXPECT_EQ(ends, 2);
}

TEST_F(ServiceTest, TheNextTurnReusesTheWholePrefix) {
  Json messages = user("tell me something long about the weather in November");
  const Json body = {{"messages", messages}, {"max_tokens", 12}, {"temperature", 0}};
  const Json first = ask("/v1/chat/completions", body);
  EXPECT_EQ(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  Json next = body;
  next["messages"].push_back(first["choices"][0]["message"]);
  next["messages"].push_back({{"role", "user"}, {"content", "and then?"}});
  const Json second = ask("/v1/chat/completions", next);
  // What the answer's text is encoded to need not be the tokens it was made of.
  EXPECT_GE(second["usage"]["prompt_tokens_details"]["cached_tokens"],
            first["usage"]["prompt_tokens"]);
}

TEST_F(ServiceTest, AnAssistantMessageAtTheEndIsContinued) {
  Json messages = user("hello");
  messages.push_back({{"role", "assistant"}, {"content", " well"}});
  const Json answer =
      ask("/v1/chat/completions", {{"messages", messages}, {"max_tokens", 8}, {"temperature", 0}});
  EXPECT_EQ(answer["choices"][0]["message"]["content"],
            replaced(alone("User: hello\nAssistant: well", 8)));
}

TEST_F(ServiceTest, StructuredOutputParses) {
  const Json schema = {{"type", "object"},
                       {"properties", {{"ok", {{"type", "boolean"}}}, {"n", {{"enum", {1, 2}}}}}},
                       {"required", {"ok", "n"}},
                       {"additionalProperties", false}};
  const Json format = {{"type", "json_schema"},
                       {"json_schema", {{"name", "x"}, {"strict", true}, {"schema", schema}}}};
  for (int seed = 0; seed < 5; ++seed) {
    const Json answer = ask("/v1/chat/completions", {{"messages", user("json")},
                                                     {"temperature", 1.5},
                                                     {"seed", seed},
                                                     {"response_format", format}});
    const Json value = Json::parse(answer["choices"][0]["message"]["content"].get<std::string>());
    EXPECT_TRUE(value["ok"].is_boolean());
    EXPECT_TRUE(value["n"] == 1 || value["n"] == 2);
    EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  }
  const Json word =
      ask("/v1/completions", {{"prompt", "x"}, {"grammar", "root ::= \"yes\" | \"no\""}});
  EXPECT_TRUE(word["choices"][0]["text"] == "yes" || word["choices"][0]["text"] == "no");
  Json bad = format;
  bad["json_schema"]["schema"]["properties"]["n"] = {{"not", {{"type", "null"}}}};
  EXPECT_NE(
      refused("/v1/chat/completions", {{"messages", user("x")}, {"response_format", bad}}, 400)
          .find("not"),
      std::string::npos);
}

class ToolsTest : public ServiceTest {
 protected:
  ToolsTest() : ServiceTest(true) {}
};

Json weather_tool() {
  return {{"type", "function"},
          {"function",
           {{"name", "get_weather"},
            {"description", "The weather of a city"},
            {"parameters",
             {{"type", "object"},
              {"properties", {{"city", {{"enum", {"Oslo", "Rome"}}}}}},
              {"required", {"city"}},
              {"additionalProperties", false}}}}}};
}

TEST_F(ToolsTest, ToolsAreCalledWithValidArguments) {
  const Json body = {
      {"messages", user("weather?")},
      {"tools", Json::array({weather_tool()})},
      {"tool_choice", {{"type", "function"}, {"function", {{"name", "get_weather"}}}}},
      {"max_tokens", 120},
      {"temperature", 0}};
  const Json answer = ask("/v1/chat/completions", body);
  const Json& choice = answer["choices"][0];
  ASSERT_TRUE(choice["message"].contains("tool_calls")) << answer.dump();
  EXPECT_TRUE(choice["message"]["content"].is_null());
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  const Json& call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"]["name"], "get_weather");
  const Json arguments = Json::parse(call["function"]["arguments"].get<std::string>());
  EXPECT_TRUE(arguments["city"] == "Oslo" || arguments["city"] == "Rome");
  Json streamed = body;
  streamed["stream"] = true;
  const std::vector<Json> parts = stream(post("/v1/chat/completions", streamed));
  std::string text;
  Json calls = Json::array();
  for (const Json& part : parts) {
    const Json& delta = part["choices"][0]["delta"];
    if (delta.contains("content")) text += delta["content"].get<std::string>();
    if (delta.contains("tool_calls")) calls = delta["tool_calls"];
  }
  EXPECT_TRUE(text.empty()) << text;
  EXPECT_EQ(calls[0]["function"], call["function"]);
  EXPECT_EQ(parts.back()["choices"][0]["finish_reason"], "tool_calls");
  // The result of the call is read, too.
  Json after = {{"messages", user("weather?")}, {"tools", body["tools"]}, {"max_tokens", 3}};
  after["messages"].push_back(choice["message"]);
  after["messages"].push_back(
      {{"role", "tool"}, {"tool_call_id", call["id"]}, {"content", "sunny"}});
  EXPECT_EQ(ask("/v1/chat/completions", after)["choices"].size(), 1u);
}

std::string answered(const std::vector<std::string>& pieces, std::vector<ToolCall>& calls) {
  Tools tools;
  tools.list.push_back(weather_tool());
  ToolReader reader(ToolStyle{}, tools);
  std::string text;
  for (const std::string& piece : pieces) text += reader.push(piece);
  ToolReader::End end = reader.finish();
  calls = std::move(end.calls);
  return text + end.text;
}

TEST(ToolReader, SplitsTextAndCalls) {
  const std::string call =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"a</tool_call>b\"}}\n"
      "</tool_call>";
  std::vector<ToolCall> calls;
  std::vector<std::string> letters;
  for (const char c : "Well: " + call + "\n" + call) letters.emplace_back(1, c);
  EXPECT_EQ(answered(letters, calls), "Well: ");
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[1].arguments, "{\"city\":\"a</tool_call>b\"}");
  EXPECT_EQ(answered({call + " done"}, calls), "done");
  EXPECT_EQ(calls.size(), 1u);
  EXPECT_EQ(answered({call + "<tool_call>\n{\"name\": \"get"}, calls),
            "<tool_call>\n{\"name\": \"get");  // cut: the first one stays
  EXPECT_EQ(calls.size(), 1u);
  EXPECT_EQ(answered({"a <tool", "_call b"}, calls), "a <tool_call b");
  EXPECT_TRUE(calls.empty());
  EXPECT_EQ(answered({"<tool_call>{\"name\":\"other\",\"arguments\":{}}</tool_call>"}, calls),
            "<tool_call>{\"name\":\"other\",\"arguments\":{}}</tool_call>");
  EXPECT_TRUE(calls.empty());
}

TEST(ToolsGrammar, FreeTextMayEndInCalls) {
  Tools tools;
  tools.list.push_back(weather_tool());
  tools.choice = ToolChoice::automatic;
  const GrammarMatcher matcher(tools_grammar(tools, ToolStyle{}));
  const auto allows = [&](const std::string& text) {
    if (!matcher.accepts(text)) return false;
    GrammarMatcher copy = matcher;
    copy.advance(text);
    return copy.at_end();
  };
  const std::string call =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Oslo\"}}\n</tool_call>";
  EXPECT_TRUE(allows(""));
  EXPECT_TRUE(allows("It rains. <b>x</b> <<tool_cal"));
  EXPECT_TRUE(allows(call));
  EXPECT_TRUE(allows("Sure! <<" + call + "\n" + call));
  EXPECT_FALSE(allows("Sure! <tool_call>"));
  EXPECT_FALSE(matcher.accepts("Sure! <tool_call>\n{\"name\": \"other"));
  EXPECT_FALSE(matcher.accepts(call + "text"));
  tools.choice = ToolChoice::required;
  const GrammarMatcher strict(tools_grammar(tools, ToolStyle{}));
  EXPECT_TRUE(strict.accepts(call));
  EXPECT_FALSE(strict.accepts("S"));
}

TEST_F(ServiceTest, ResponsesHaveTheirShape) {
  const Json body = {{"input", "hello"},
                     {"instructions", "be brief"},
                     {"max_output_tokens", 6},
                     {"temperature", 0}};
  const Json answer = ask("/v1/responses", body);
  EXPECT_EQ(answer["object"], "response");
  EXPECT_EQ(answer["status"], "incomplete");
  EXPECT_EQ(answer["incomplete_details"]["reason"], "max_output_tokens");
  const std::string text = answer["output"][0]["content"][0]["text"];
  EXPECT_EQ(text, replaced(alone("be brief\n\nUser: hello\nAssistant:", 6)));
  EXPECT_EQ(answer["usage"]["output_tokens"], 6);
  Json streamed = body;
  streamed["stream"] = true;
  std::string deltas;
  std::vector<std::string> kinds;
  for (const Json& part : stream(post("/v1/responses", streamed))) {
    EXPECT_EQ(part["sequence_number"], kinds.size());
    kinds.push_back(part["type"]);
    if (kinds.back() == "response.output_text.delta") deltas += part["delta"].get<std::string>();
  }
  EXPECT_EQ(deltas, text);
  EXPECT_EQ(kinds.front(), "response.created");
  EXPECT_EQ(kinds.back(), "response.incomplete");
}

TEST_F(ServiceTest, EmbeddingsAreMeans) {
  const Json answer = ask("/v1/embeddings", {{"input", {"a b c", "other"}}});
  ASSERT_EQ(answer["data"].size(), 2u);
  EXPECT_EQ(answer["data"][0]["embedding"].size(),
            static_cast<std::size_t>(loaded_.model->info().dim));
  const Json coded = ask("/v1/embeddings", {{"input", "a b c"}, {"encoding_format", "base64"}});
  EXPECT_EQ(coded["data"][0]["embedding"].get<std::string>().size(),
            static_cast<std::size_t>((loaded_.model->info().dim * 4 + 2) / 3 * 4));
}

TEST_F(ServiceTest, TextAndTokens) {
  const Json tokens = ask("/tokenize", {{"content", "hé"}});
  EXPECT_EQ(tokens["tokens"].size(), 3u);
  EXPECT_EQ(ask("/detokenize", tokens)["content"], "hé");
  EXPECT_EQ(ask("/detokenize", {{"tokens", Json::array()}})["content"], "");
}

TEST_F(ServiceTest, WhatIsWrongIsNamed) {
  const std::string chat = "/v1/chat/completions", text = "/v1/completions";
  EXPECT_EQ(refused(chat, Json::array()), "the body must be an object, found array");
  EXPECT_EQ(refused(chat, {{"messages", user("x")}, {"temperatur", 1}}, 400, "temperatur"),
            "temperatur is not supported");
  refused(chat, {{"messages", user("x")}, {"temperature", -1}}, 400, "temperature");
  refused(chat, {{"messages", user("x")}, {"temperature", "hot"}}, 400, "temperature");
  refused(chat, {{"messages", user("x")}, {"n", 0}}, 400, "n");
  refused(chat, {{"messages", user("x")}, {"n", 1000}}, 400, "n");
  refused(chat, {{"messages", user("x")}, {"max_tokens", 1.5}}, 400, "max_tokens");
  refused(chat, {{"messages", user("x")}, {"stop", std::string(300, 'x')}}, 400, "stop");
  refused(chat, {{"messages", user("x")}, {"logit_bias", {{"9999", 1}}}}, 400, "logit_bias");
  refused(chat, {{"messages", user("x")}, {"top_logprobs", 2}}, 400, "top_logprobs");
  refused(chat, {{"messages", user("x")}, {"stream_options", Json::object()}}, 400);
  refused(chat, {{"messages", user("x")}, {"mirostat", 2}}, 400, "mirostat");
  refused(chat, {{"messages", Json::array()}}, 400, "messages");
  refused(chat, {{"messages", {{{"role", "king"}, {"content", "x"}}}}}, 400, "messages[0].role");
  refused(chat, {{"messages", {{{"role", "user"}}}}}, 400, "messages[0].content");
  refused(chat,
          {{"messages",
            {{{"role", "user"}, {"content", {{{"type", "image_url"}, {"image_url", "x"}}}}}}}},
          400, "messages[0].content[0].type");
  refused(chat, {{"model", "gpt-4"}, {"messages", user("x")}}, 404, "model");
  refused(chat, {{"messages", user(std::string(500, 'x'))}}, 400, "messages");
  refused(chat, {{"messages", user("x")}, {"tool_choice", "required"}}, 400, "tool_choice");
  refused(text, {{"prompt", Json::array()}}, 400, "prompt");
  refused(text, {{"prompt", {1, 99999}}}, 400);
  refused(text, {{"prompt", {1, -1}}}, 400, "prompt");
  refused(text, {{"prompt", "x"}, {"best_of", 3}}, 400, "best_of");
  refused(text, {{"prompt", "x"}, {"suffix", "y"}}, 400, "suffix");
  refused("/v1/responses", {{"input", "x"}, {"previous_response_id", "resp_1"}}, 400,
          "previous_response_id");
  refused("/v1/embeddings", {{"input", "x"}, {"dimensions", 3}}, 400, "dimensions");
  EXPECT_EQ(post("/v1/nothing", {}).status, 404);
  EXPECT_EQ(get("/v1/completions").status, 405);
  const HttpReply broken = service_->handle(request("POST", text, "{\"prompt\": "));
  EXPECT_EQ(broken.status, 400);
  // As text within the JSON, or in many small objects, or with many members.
  const std::string nested(50'000, '[');
  EXPECT_EQ(
      post(chat, {{"messages",
                   {{{"role", "assistant"},
                     {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", nested}}}}}}},
                    {{"role", "user"}, {"content", "x"}}}},
                  {"max_tokens", 1}})
          .status,
      400);
  std::string objects = "[{}";
  for (int i = 0; i < 500'000; ++i) objects += ",{}";
  EXPECT_EQ(service_->handle(request("POST", text, objects + "]")).status, 400);
  std::string members = "{\"prompt\":\"x\"";
  for (int i = 0; i < 100'000; ++i) members += ",\"" + std::to_string(i) + "\":1";
  EXPECT_EQ(service_->handle(request("POST", text, members + "}")).status, 400);
  refused(chat, {{"messages", user("x")}, {"max_tokens", 3}, {"max_completion_tokens", 4}}, 400,
          "max_completion_tokens");
  refused(chat, {{"messages", user("x")}, {"seed", 9.3e18}}, 400, "seed");
  refused(text, {{"prompt", Json::array_t(200, "x")}}, 400, "prompt");  // more than may ever wait
  refused("/detokenize", {{"tokens", {"x"}}}, 400, "tokens");
  const std::string deep(100'000, '[');
  EXPECT_EQ(service_->handle(request("POST", text, deep)).status, 400);
}

TEST_F(ServiceTest, AFullQueueIsSaidSo) {
  std::vector<HttpReply> running;
  const Json body = {
      {"prompt", "x"}, {"max_tokens", 200}, {"stream", true}, {"n", 2}, {"ignore_eos", true}};
  for (int i = 0; i < 3; ++i) running.push_back(post("/v1/completions", body));
  const HttpReply reply = post("/v1/completions", body);
  EXPECT_EQ(reply.status, 429);
  EXPECT_TRUE(std::any_of(reply.headers.begin(), reply.headers.end(),
                          [](const auto& header) { return header.first == "Retry-After"; }));
  running.clear();  // all clients leave
  for (int tries = 0; tries < 200 && engine_->open() > 0; ++tries) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(engine_->open(), 0u);
  EXPECT_EQ(post("/v1/completions", {{"prompt", "x"}, {"max_tokens", 1}}).status, 200);
}

TEST_F(ServiceTest, AClientThatLeavesFreesItsPlace) {
  HttpRequest r =
      request("POST", "/v1/completions",
              Json({{"prompt", "x"}, {"max_tokens", 200}, {"ignore_eos", true}}).dump());
  r.client_gone = [] { return true; };
  EXPECT_EQ(service_->handle(r).status, 499);
  for (int tries = 0; tries < 200 && engine_->open() > 0; ++tries) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(engine_->open(), 0u);
}

TEST_F(ServiceTest, TheEndCutsStreamsWithAnEvent) {
  const HttpReply reply =
      post("/v1/completions",
           {{"prompt", "x"}, {"max_tokens", 200}, {"stream", true}, {"ignore_eos", true}});
  service_->drain();
  EXPECT_EQ(get("/health").status, 503);
  EXPECT_EQ(post("/v1/completions", {{"prompt", "x"}}).status, 503);
  engine_->end_all(FinishReason::cancelled);
  std::string last;
  const std::vector<Json> parts = stream(reply, &last);
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(parts.back()["error"]["message"], "the server is shutting down");
}

TEST_F(ServiceTest, KeysPagesAndOrigins) {
  ServiceOptions options;
  options.keys = {"secret", "other"};
  options.origins = {"https://good.example"};
  make(options);
  EXPECT_EQ(get("/v1/models").status, 401);
  EXPECT_EQ(get("/health").status, 200);
  HttpRequest r = request("GET", "/v1/models");
  r.authorization = "Bearer other";
  EXPECT_EQ(service_->handle(r).status, 200);
  r.authorization = "Bearer secre";
  EXPECT_EQ(service_->handle(r).status, 401);
  r.authorization = "secret";
  EXPECT_EQ(service_->handle(r).status, 401);
  r.authorization = "Bearer secret";
  r.origin = "https://good.example";
  const HttpReply good = service_->handle(r);
  EXPECT_EQ(good.status, 200);
  EXPECT_NE(std::find(good.headers.begin(), good.headers.end(),
                      std::pair<std::string, std::string>("Access-Control-Allow-Origin",
                                                          "https://good.example")),
            good.headers.end());
  r.origin = "https://evil.example";
  EXPECT_EQ(service_->handle(r).status, 403);
  r.origin = "http://localhost:8080";
  EXPECT_EQ(service_->handle(r).status, 200);
  r.host = "127.evil.example:8080";
  r.origin = "http://127.evil.example:8080";
  EXPECT_EQ(service_->handle(r).status, 403);
  r.host = "evil.example:8080";  // a name that was pointed at this machine
  r.origin = "http://evil.example:8080";
  EXPECT_EQ(service_->handle(r).status, 403);
}

TEST_F(ServiceTest, ThePageHasItsPolicy) {
  const HttpReply page = get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_NE(page.body.find("<!doctype html>"), std::string::npos);
  std::string policy;
  for (const auto& [name, value] : page.headers) {
    if (name == "Content-Security-Policy") policy = value;
  }
  EXPECT_NE(policy.find("script-src 'sha256-"), std::string::npos);
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
}

TEST_F(ServiceTest, ModelsHealthAndMetrics) {
  const Json models = Json::parse(get("/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][1]["id"], "other-name");
  EXPECT_EQ(get("/v1/models/tiny").status, 200);
  EXPECT_EQ(get("/v1/models/none").status, 404);
  ask("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 5}, {"ignore_eos", true}});
  // The answer is there a moment before the step that ended it is counted.
  std::string text;
  for (int tries = 0; tries < 400; ++tries) {
    text = get("/metrics").body;
    if (text.find("tenfold_generations_running 0\n") != std::string::npos) break;
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_NE(text.find("tenfold_generated_tokens_total 5\n"), std::string::npos) << text;
  EXPECT_NE(text.find("tenfold_requests_total{route=\"/v1/completions\",status=\"200\"} 1\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("tenfold_first_token_seconds_count 1\n"), std::string::npos);
  Service loading({{}, {}, {"tiny"}, {}, true});
  EXPECT_EQ(loading.handle(request("GET", "/health")).status, 503);
  EXPECT_EQ(loading.handle(request("POST", "/v1/completions", "{}")).status, 503);
  EXPECT_EQ(loading.handle(request("GET", "/metrics")).status, 200);
}

}  // namespace
}  // namespace tenfold
