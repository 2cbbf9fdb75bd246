#pragma once
// The chat page: one HTML file in the program (server/web/index.html).

#include <string>
#include <string_view>

namespace tenfold {

std::string_view chat_page();
// A Content-Security-Policy under which only the page's own script and style run, and only this
// server is asked anything.
std::string chat_page_policy();

}  // namespace tenfold
