#pragma once
// Rows of the quantizer's loops over data that stays in the caches.

#include "kernels/cpu/loops.h"

namespace tenfold {

// Names: ISA/loops/LOOP/LENGTH, in Gop/s (a multiplication and an addition are two) or, of codes,
// in weights/s.
void register_loops(const Loops& loops);

}  // namespace tenfold
