#pragma once
// How keys and values lie in memory. A cache holds pages of kPageTokens tokens; within a page each
// KV head has its share:
//
//   f32, f16   [kPageTokens, head_dim]
//   q8         [kPageTokens, head_dim] int8 codes, then [kPageTokens] f32 scales: x = scale * code,
//              scale = (largest |x| of the token and head) / 127
//
// A share is a multiple of 64 bytes in every type. The scales behind the codes also make it safe to
// load a whole vector where the last row of codes begins to end: kernels may read up to 64 bytes
// past a row of codes.
//
// Included by the ISA units: constants and types only.

#include <cstdint>

namespace tenfold {

enum class KvType : int { f32 = 0, f16 = 1, q8 = 2 };

inline constexpr std::int64_t kPageTokens = 64;

}  // namespace tenfold
