#include "kernels/cuda/packed_launch.cuh"

namespace tenfold::cuda {

template cudaError_t launch_band<Q2>(const BandProduct&, const DeviceLimits&, cudaStream_t,
                                     const Tuning&);

}  // namespace tenfold::cuda
