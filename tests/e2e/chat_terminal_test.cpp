// The interactive chat on a terminal: streaming, commands, Ctrl-C.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/subprocess.h"
#include "tests/support/tiny_model.h"

namespace tenfold::testing {
namespace {

using Environment = std::vector<std::pair<std::string, std::string>>;

class ChatTerminal : public ::testing::Test {
 protected:
  // The model babbles; what it says does not matter, how long does.
  TerminalProcess start(std::vector<std::string> extra) {
    std::vector<std::string> command = {TENFOLD_BINARY, "chat", "-m", model_, "--seed", "1"};
    command.insert(command.end(), extra.begin(), extra.end());
    return {command, Environment{{"TERM", "xterm"}, {"XDG_STATE_HOME", folder_.path()}}};
  }

  ScratchFolder folder_;
  std::filesystem::path model_ = tiny_model(folder_);
};

TEST_F(ChatTerminal, CommandsAndHistory) {
  TerminalProcess chat = start({"-n", "4"});
  ASSERT_TRUE(chat.wait_for("plain one")) << chat.screen();
  ASSERT_TRUE(chat.wait_for("> "));
  chat.type("/help\r");
  ASSERT_TRUE(chat.wait_for("/regen"));
  ASSERT_TRUE(chat.wait_for("> "));
  chat.type("/system Be brief.\r");
  ASSERT_TRUE(chat.wait_for("system message set"));
  chat.type("first message\r");
  ASSERT_TRUE(chat.wait_for("[the limit of n tokens is reached]")) << chat.screen();
  chat.type("/regen\r");
  ASSERT_TRUE(chat.wait_for("[the limit of n tokens is reached]"));
  chat.type("/stats\r");
  EXPECT_TRUE(chat.wait_for(" 1 of them new")) << "/regen runs no prompt twice";
  ASSERT_TRUE(chat.wait_for("answer: 4 tokens"));
  chat.type("/set top-k 5\r");
  ASSERT_TRUE(chat.wait_for("top-k 5"));
  chat.type("/set top-k -5\r");
  ASSERT_TRUE(chat.wait_for("-5"));
  chat.type("/edit second message\r");
  ASSERT_TRUE(chat.wait_for("[the limit of n tokens is reached]"));
  const auto file = folder_ / "chat.json";
  chat.type("/save " + file.string() + "\r");
  ASSERT_TRUE(chat.wait_for("saved 3 messages"));
  chat.type("/undo\r");
  ASSERT_TRUE(chat.wait_for("took back: second message"));
  chat.type("/load " + file.string() + "\r");
  ASSERT_TRUE(chat.wait_for("loaded 3 messages"));
  chat.type("/nonsense\r");
  ASSERT_TRUE(chat.wait_for("no command"));
  chat.type("/clear\r");
  ASSERT_TRUE(chat.wait_for("empty"));
  chat.type("/exit\r");
  EXPECT_EQ(chat.wait_exit(), 0);

  const nlohmann::json saved = nlohmann::json::parse(read_file(file));
  EXPECT_EQ(saved["messages"][0]["role"], "system");
  EXPECT_EQ(saved["messages"][1]["content"], "second message");
  EXPECT_EQ(saved["messages"][2]["role"], "assistant");
}

TEST_F(ChatTerminal, CtrlCTwiceAtThePromptQuits) {
  TerminalProcess chat = start({});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.screen();
  chat.type("half a mess\x03");
  ASSERT_TRUE(chat.wait_for("Ctrl-C again"));
  chat.type("\x03");
  EXPECT_EQ(chat.wait_exit(), 130);
}

TEST_F(ChatTerminal, CtrlCStopsAnAnswerAndKeepsIt) {
  TerminalProcess chat = start({"-c", "250", "--isa", "scalar"});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.screen();
  chat.type("talk to me\r");
  ASSERT_TRUE(chat.wait_for("talk to me\r\n")) << chat.screen();
  chat.type("\x03");
  // The tiny model may be done before the key arrives; then it is a Ctrl-C at the prompt.
  ASSERT_TRUE(chat.wait_for("[")) << chat.screen();
  chat.type("/exit\r");
  EXPECT_EQ(chat.wait_exit(), 0) << chat.screen();
}

TEST_F(ChatTerminal, CtrlDLeaves) {
  TerminalProcess chat = start({});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.screen();
  chat.type("\x04");
  EXPECT_EQ(chat.wait_exit(), 0);
}

TEST_F(ChatTerminal, LeavesOutTheOldestTurnsAndSaysSo) {
  TerminalProcess chat = start({"-n", "8"});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.screen();
  for (int turn = 0; turn < 3; ++turn) {
    chat.type(std::string(80, 'a') + "\r");
    ASSERT_TRUE(chat.wait_for("[the limit of n tokens is reached]")) << chat.screen();
  }
  EXPECT_TRUE(chat.wait_for("left out of the prompt")) << chat.screen();
  chat.type(std::string(300, 'a') + "\r");
  EXPECT_TRUE(chat.wait_for("but the context is 256")) << chat.screen();
  chat.type("/exit\r");
  EXPECT_EQ(chat.wait_exit(), 0);
}

TEST_F(ChatTerminal, WorksOnADumbTerminal) {
  TerminalProcess chat({TENFOLD_BINARY, "chat", "-m", model_, "-n", "4"},
                       {{"TERM", "dumb"}, {"XDG_STATE_HOME", folder_.path()}});
  ASSERT_TRUE(chat.wait_for("Type a message")) << chat.screen();
  chat.type("hello\r");
  ASSERT_TRUE(chat.wait_for("limit of n tokens")) << chat.screen();
  chat.type("/exit\r");
  EXPECT_EQ(chat.wait_exit(), 0);
}

}  // namespace
}  // namespace tenfold::testing
