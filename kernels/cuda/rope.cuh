#pragma once
// Rotary positions.

namespace tenfold::cuda {

// Pair i of a head's `half`, in the CPU's bits.
__device__ __forceinline__ void rotate_pair(float* head, int i, int half, bool interleaved, float c,
                                            float s) {
  float* a = head + (interleaved ? 2 * i : i);
  float* b = interleaved ? a + 1 : a + half;
  const float a0 = *a, b0 = *b;
  *a = __fsub_rn(__fmul_rn(a0, c), __fmul_rn(b0, s));
  *b = __fadd_rn(__fmul_rn(a0, s), __fmul_rn(b0, c));
}

}  // namespace tenfold::cuda
