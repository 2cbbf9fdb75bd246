#include "server/access.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

using testing::expect_error;

TEST(Access, ReadsKeysLineByLine) {
  const testing::ScratchFolder folder;
  folder.write("keys", "# of the office\nfirst\n\n  \nsecond-2 \r\n");
  EXPECT_EQ(read_key_file((folder / "keys").string()),
            (std::vector<std::string>{"first", "second-2"}));
}

TEST(Access, SaysWhatIsWrongWithAKeyFile) {
  const testing::ScratchFolder folder;
  folder.write("empty", "# nothing\n");
  folder.write("spaces", "good\ntwo words\n");
  folder.write("percent", "a%20b\n");
  folder.write("long", std::string(2000, 'x') + "\n");
  const auto message = [&](const char* name) {
    return expect_error(ErrorCode::bad_file, [&] { read_key_file((folder / name).string()); });
  };
  EXPECT_NE(message("missing").find("cannot be read"), std::string::npos);
  EXPECT_NE(message("empty").find("no API key"), std::string::npos);
  EXPECT_NE(message("spaces").find("line 2"), std::string::npos);
  EXPECT_NE(message("percent").find("line 1"), std::string::npos);
  EXPECT_NE(message("long").find("line 1"), std::string::npos);
}

TEST(Access, KeysMustMatchWhole) {
  const std::vector<std::string> keys = {"abc", "a-longer-one"};
  EXPECT_TRUE(has_key(keys, "Bearer abc"));
  EXPECT_TRUE(has_key(keys, "Bearer a-longer-one"));
  for (const char* text : {"", "Bearer ", "Bearer ab", "Bearer abcd", "bearer abc", "Basic abc",
                           "abc", "Bearer  abc"}) {
    EXPECT_FALSE(has_key(keys, text)) << text;
  }
  EXPECT_FALSE(has_key({}, "Bearer "));
}

TEST(Access, KnowsThisMachineByItsNumbers) {
  for (const char* host : {"localhost", "127.0.0.1", "127.9.8.7", "::1"}) {
    EXPECT_TRUE(is_loopback(host)) << host;
  }
  for (const char* host : {"", "0.0.0.0", "::", "127.evil.example", "127.0.0.1.nip.io",
                           "localhost.evil.example", "10.0.0.1", "128.0.0.1"}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
  EXPECT_EQ(host_name("http://localhost:8080"), "localhost");
  EXPECT_EQ(host_name("[::1]:8080"), "::1");
  EXPECT_EQ(host_name("127.0.0.1"), "127.0.0.1");
}

}  // namespace
}  // namespace tenfold
