#pragma once

#include <cstdint>
#include <string>

namespace tenfold {

// A line of /proc/meminfo ("MemTotal: 16 kB") in bytes; 0 where it is missing.
std::uint64_t memory_field(const std::string& name);

}  // namespace tenfold
