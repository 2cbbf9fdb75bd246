#pragma once
// exp as kernels/cpu/elementwise.inl has it, in the same bits as its AVX units: about 1 ulp, exact
// operations only, so that every device agrees.

namespace tenfold::cuda {

__device__ __forceinline__ float exp_of(float x) {
  const float clamped = fminf(fmaxf(x, -87.33654f), 88.37626f);
  const float n = rintf(__fmul_rn(clamped, 1.44269504088896341f));
  float r = __fmaf_rn(n, -0.693359375f, clamped);
  r = __fmaf_rn(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = __fmaf_rn(p, r, 1.3981999507e-3f);
  p = __fmaf_rn(p, r, 8.3334519073e-3f);
  p = __fmaf_rn(p, r, 4.1665795894e-2f);
  p = __fmaf_rn(p, r, 1.6666665459e-1f);
  p = __fmaf_rn(p, r, 5.0000001201e-1f);
  p = __fmaf_rn(__fmul_rn(r, r), p, __fadd_rn(r, 1.0f));
  return __fmul_rn(p, __int_as_float((__float2int_rn(n) + 127) << 23));
}

__device__ __forceinline__ float silu_mul_of(float gate, float up) {
  return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, exp_of(-gate))), up);
}

}  // namespace tenfold::cuda
