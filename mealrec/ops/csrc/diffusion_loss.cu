// Masked squared error; its gradient, times that of the loss, is a pass of its own in diffusion_loss_gradient.cu. The
// order of every sum is fixed: threads, then warps, then one partial sum per block, then a last block over the partial
// sums.
#include "launch.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

constexpr int FINISH = 1024;

// The sum over a block, in thread 0.
template <int THREADS>
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float of_warp[THREADS / 32];
#pragma unroll
  for (int offset = 16; offset; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, offset);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x < THREADS / 32 ? of_warp[threadIdx.x] : 0.0f;
  if (threadIdx.x < 32)
#pragma unroll
    for (int offset = 16; offset; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, offset);
  return value;
}

template <class T, bool ALIGNED, bool PACKED>
__global__ void __launch_bounds__(BLOCK, 4) diffusion_loss_kernel(const DiffusionLoss a, const Mapping mapping) {
  struct Row {
    const T *prediction, *target;
  };
  Vector<T, ALIGNED> prediction[UNROLL], target[UNROLL];
  float sum = 0.0f;
  for_each_vector<PACKED>(
      a.shape, mapping, a.mask,
      [&](int64_t r, int) { return Row{row_of<T>(a.prediction, r), row_of<T>(a.target, r)}; },
      [&](const Row& row, int i, int vector) {
        prediction[i].load(row.prediction, vector, a.shape.columns);
        target[i].load(row.target, vector, a.shape.columns);
      },
      [&](const Row&, int i, int64_t, int) {
        float error[WIDTH<T>], part[WIDTH<T>];
        prediction[i].unpack(error);
        target[i].unpack(part);
#pragma unroll
        for (int c = 0; c < WIDTH<T>; ++c) {
          error[c] -= part[c];
          sum = fmaf(error[c], error[c], sum);
        }
      },
      [](int64_t, int) {});
  sum = block_sum<BLOCK>(sum * __fdividef(1.0f, float(int(a.shape.columns))));
  if (threadIdx.x == 0) (gridDim.x == 1 ? *a.loss : a.partial[blockIdx.x]) = sum;
}

__global__ void __launch_bounds__(FINISH) finish_kernel(const float* partial, unsigned count, float* loss) {
  float sum = 0.0f;
  for (unsigned i = threadIdx.x; i < count; i += FINISH) sum += partial[i];
  sum = block_sum<FINISH>(sum);
  if (threadIdx.x == 0) *loss = sum;
}

struct Launch {
  const DiffusionLoss& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    diffusion_loss_kernel<T, ALIGNED, PACKED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
    if (mapping.blocks > 1) finish_kernel<<<1, FINISH, 0, stream>>>(a.partial, mapping.blocks, a.loss);
  }
};

}  // namespace

int64_t loss_blocks(const Shape& shape) {
  const int width = shape.dtype == Dtype::float32 ? WIDTH<float> : WIDTH<__nv_bfloat16>;
  return map_rows(shape.rows, shape.columns, width).blocks;
}

int diffusion_loss(const DiffusionLoss& a, void* stream) {
  if (a.shape.rows == 0 || a.shape.columns == 0)
    return int(cudaMemsetAsync(a.loss, 0, sizeof(float), static_cast<cudaStream_t>(stream)));
  const size_t element = element_size(a.shape);
  const bool fits =
      a.shape.columns * element % 16 == 0 && aligned(a.prediction, element) && aligned(a.target, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
