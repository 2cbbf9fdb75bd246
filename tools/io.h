#pragma once
// Standard input, output and error for the commands, and text and ids that come from users.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/error.h"
#include "runtime/tokenizer.h"

namespace tenfold {

// Writes at once, unbuffered; throws io where standard output cannot take it (disk full).
void print(std::string_view text);
// Text that a model made: as print(), but on a terminal control characters other than newline and
// tab become U+FFFD, so that no model can send escape sequences.
void print_model_text(std::string_view text);
// One line on standard error.
void note(std::string_view text);

// Says so where values lay outside F16's range. way_out: "--type f32 keeps them"; may be empty.
void note_clipped(std::int64_t count, std::string_view way_out);

// tenfold's folder of a kind of files of the user: in the folder that the variable names, else in
// one of the home folder (".cache"); empty where there is neither.
std::filesystem::path user_folder(const char* variable, const char* in_home);

// The whole file as text; "-" is standard input. Not UTF-8 is bad_file (bad_request for standard
// input), naming the byte.
std::string read_text(const std::string& path);
// Throws bad_request where a command-line argument is not UTF-8. `name`: what messages call it.
void check_utf8(std::string_view text, std::string_view name, ErrorCode code);

// A JSON array of token ids, and an array of equally long arrays of them.
std::vector<TokenId> read_ids(const std::filesystem::path& path);
std::vector<std::vector<TokenId>> read_id_batch(const std::filesystem::path& path);

std::string megabytes(std::uint64_t bytes);         // "257 MiB", "1.2 GiB"
std::string count_text(std::int64_t n);             // "134.5 M"
double per_second(std::int64_t n, double seconds);  // 0 where no time passed

}  // namespace tenfold
