#pragma once
// Some 12,000 characters of text to calibrate on, alike and yet not the same.

#include <string>

namespace tenfold::testing {

inline std::string prose() {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    text += "The " + std::to_string(i * 7919 % 1000) + " cats of house " + std::to_string(i % 13) +
            " sleep. ";
  }
  return text;
}

}  // namespace tenfold::testing
