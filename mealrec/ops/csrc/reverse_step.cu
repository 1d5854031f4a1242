// One step of the reverse chain, DDPM or DDIM, guided or not, its noise in registers: one read of each input and
// one write.
#include "launch.h"
#include "random.cuh"
#include "reverse.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool PACKED, bool GUIDED, bool NOISY>
__global__ void __launch_bounds__(BLOCK) reverse_step_kernel(const ReverseStep a, const Mapping mapping) {
  const Key key(a.counters);
  struct Row {
    Source source;
    float of_x, own, other, scale;
    const T *x, *x0hat, *null;
  };
  Vector<T, ALIGNED> x[UNROLL], x0hat[UNROLL], null[GUIDED ? UNROLL : 1];
  for_each_vector<PACKED>(
      a.shape, mapping, a.mask,
      [&](int64_t r, int) {
        const int64_t prev = __ldg(a.t_prev + r);
        const Reverse k = reverse(__ldg(a.abar + __ldg(a.t + r) + 1), __ldg(a.abar + prev + 1), prev < 0, a.ddpm, a.eta);
        const float own = GUIDED ? k.x0hat * (1.0f + a.guidance) : k.x0hat, other = -k.x0hat * a.guidance;
        return Row{Source(a.counters, r), k.x, own, other, scale_of(k.noise), row_of<T>(a.x, r), row_of<T>(a.x0hat, r),
                   GUIDED ? row_of<T>(a.null, r) : nullptr};
      },
      [&](const Row& row, int i, int vector) {
        x[i].load(row.x, vector, a.shape.columns);
        x0hat[i].load(row.x0hat, vector, a.shape.columns);
        if constexpr (GUIDED) null[i].load(row.null, vector, a.shape.columns);
      },
      [&](const Row& row, int i, int64_t r, int vector) {
        float value[WIDTH<T>], part[WIDTH<T>];
        x[i].unpack(value);
        x0hat[i].unpack(part);
#pragma unroll
        for (int c = 0; c < WIDTH<T>; ++c) value[c] = fmaf(row.own, part[c], row.of_x * value[c]);
        if constexpr (GUIDED) {
          null[i].unpack(part);
#pragma unroll
          for (int c = 0; c < WIDTH<T>; ++c) value[c] = fmaf(row.other, part[c], value[c]);
        }
        if constexpr (NOISY) add_normals(key, row.source, vector, row.scale, value);
        x[i].pack(value);
        x[i].store(row_of<T>(a.out, a.shape, r), vector, a.shape.columns);
      },
      Clear<T, ALIGNED>{a.out, a.shape});
}

struct Launch {
  const ReverseStep& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    const bool noisy = a.ddpm || a.eta > 0.0f;
    auto kernel = reverse_step_kernel<T, ALIGNED, PACKED, false, false>;
    if (a.null.data)
      kernel = noisy ? reverse_step_kernel<T, ALIGNED, PACKED, true, true> : reverse_step_kernel<T, ALIGNED, PACKED, true, false>;
    else if (noisy)
      kernel = reverse_step_kernel<T, ALIGNED, PACKED, false, true>;
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
