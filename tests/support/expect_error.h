#pragma once
// The message of the Error that `call` throws; a test failure (and "") where it throws none or
// another code.

#include <gtest/gtest.h>

#include <string>

#include "kernels/error.h"

namespace tenfold::testing {

template <typename F>
std::string expect_error(ErrorCode code, F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

}  // namespace tenfold::testing
