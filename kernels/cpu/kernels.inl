// All kernels of one ISA, in order of use. Included inside the unit's namespace.
#include "kernels/cpu/linear.inl"
#include "kernels/cpu/packed.inl"
// Uses load_weight of linear.inl.
#include "kernels/cpu/elementwise.inl"
// Uses both.
#include "kernels/cpu/attention.inl"

static constexpr KernelTable make_table(const char* isa) {
  return {isa,
          linear,
          linear_scratch,
          packed_tile,
          prepare,
          linear_packed,
          packed_scratch,
          attention_chunk,
          attention_scratch,
          attention_merge,
          rms_norm,
          layer_norm,
          silu_mul,
          relu,
          scale,
          to_f32,
          to_f16,
          to_q8,
          log_sum_exp};
}
