// One step of the reverse chain, DDPM or DDIM, guided or not, its noise in registers: one read of each input and
// one write.
#include "launch.h"
#include "random.cuh"
#include "reverse.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool GUIDED, bool NOISY>
__global__ void __launch_bounds__(BLOCK) reverse_step_kernel(const ReverseStep a, const Mapping mapping) {
  const Thread thread(mapping.lanes_log2);
  if (thread.row >= a.shape.rows) return;
  T* out = row_of<T>(a.out, a.shape, thread.row);
  if (a.mask && !a.mask[thread.row]) {
    clear_row<T, ALIGNED>(out, thread, mapping.vectors, a.shape.columns);
    return;
  }
  const int64_t prev = __ldg(a.t_prev + thread.row);
  const Reverse k = reverse(__ldg(a.abar + __ldg(a.t + thread.row) + 1), __ldg(a.abar + prev + 1), prev < 0, a.ddpm, a.eta);
  const float own = GUIDED ? k.x0hat * (1.0f + a.guidance) : k.x0hat, other = -k.x0hat * a.guidance;
  const float scale = scale_of(k.noise);
  const Source source(a.counters, thread.row);
  const T* in_x = row_of<T>(a.x, thread.row);
  const T* in_x0hat = row_of<T>(a.x0hat, thread.row);
  const T* in_null = GUIDED ? row_of<T>(a.null, thread.row) : nullptr;
  Vector<T, ALIGNED> x[UNROLL], x0hat[UNROLL], null[GUIDED ? UNROLL : 1];
  for_each_vector(
      thread, mapping.vectors,
      [&](int i, int vector) {
        x[i].load(in_x, vector, a.shape.columns);
        x0hat[i].load(in_x0hat, vector, a.shape.columns);
        if constexpr (GUIDED) null[i].load(in_null, vector, a.shape.columns);
      },
      [&](int i, int vector) {
        float value[WIDTH<T>], part[WIDTH<T>];
        x[i].unpack(value);
        x0hat[i].unpack(part);
#pragma unroll
        for (int c = 0; c < WIDTH<T>; ++c) value[c] = fmaf(own, part[c], k.x * value[c]);
        if constexpr (GUIDED) {
          null[i].unpack(part);
#pragma unroll
          for (int c = 0; c < WIDTH<T>; ++c) value[c] = fmaf(other, part[c], value[c]);
        }
        if constexpr (NOISY) add_normals(source, vector, scale, value);
        x[i].pack(value);
        x[i].store(out, vector, a.shape.columns);
      });
}

struct Launch {
  const ReverseStep& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED>
  void operator()(const Mapping& mapping) const {
    const bool noisy = a.ddpm || a.eta > 0.0f;
    auto kernel = a.null.data ? (noisy ? reverse_step_kernel<T, ALIGNED, true, true> : reverse_step_kernel<T, ALIGNED, true, false>)
                              : (noisy ? reverse_step_kernel<T, ALIGNED, false, true> : reverse_step_kernel<T, ALIGNED, false, false>);
    kernel<<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int reverse_step(const ReverseStep& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x, element) && aligned(a.x0hat, element) && (!a.null.data || aligned(a.null, element)) &&
                    aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
