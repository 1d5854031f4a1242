// Registers the operations for CPU tensors and spreads their rows over PyTorch's threads.
#include "binding.h"
#include "cpu_ops.h"

namespace mealrec {
namespace {

constexpr int64_t GRAIN = 1 << 14;  // elements that are worth a thread

template <class Body>
void over_rows(int64_t rows, int64_t columns, const Body& body) {
  torch::stable::parallel_for(0, rows, columns > GRAIN ? 1 : GRAIN / (columns > 0 ? columns : 1), body);
}

template <class Arguments>
using Kernel = void (*)(const Arguments&, int64_t, int64_t);

template <class Arguments>
void over_rows(const Arguments& a, Kernel<Arguments> of_float, Kernel<Arguments> of_bfloat16) {
  const Kernel<Arguments> kernel = a.shape.dtype == Dtype::float32 ? of_float : of_bfloat16;
  over_rows(a.shape.rows, a.shape.columns, [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

struct Cpu {
  static void q_sample(const QSample& a, const Tensor&) {
    over_rows<QSample>(a, cpu::q_sample<float>, cpu::q_sample<cpu::bfloat16>);
  }
  static void scale_rows(const ScaleRows& a, const Tensor&) {
    over_rows<ScaleRows>(a, cpu::scale_rows<float>, cpu::scale_rows<cpu::bfloat16>);
  }
  static void reverse_step(const ReverseStep& a, const Tensor&) {
    over_rows<ReverseStep>(a, cpu::reverse_step<float>, cpu::reverse_step<cpu::bfloat16>);
  }
  static void diffusion_loss_gradient(const DiffusionLossGradient& a, const Tensor&) {
    over_rows<DiffusionLossGradient>(a, cpu::diffusion_loss_gradient<float>, cpu::diffusion_loss_gradient<cpu::bfloat16>);
  }
  static void dropout(const Dropout& a, const Tensor&) {
    over_rows<Dropout>(a, cpu::dropout<float>, cpu::dropout<cpu::bfloat16>);
  }
  static void draw(const Draw& a, const Tensor&) {
    over_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { cpu::draw(a, begin, end); });
  }

  static int64_t loss_block(const Shape& shape) { return shape.columns > GRAIN ? 1 : GRAIN / (shape.columns + 1) + 1; }
  static int64_t loss_blocks(const Shape& shape) { return (shape.rows + loss_block(shape) - 1) / loss_block(shape); }
  static void diffusion_loss(const DiffusionLoss& a, const Tensor&) {
    const int64_t rows = a.shape.rows, size = loss_block(a.shape), blocks = loss_blocks(a.shape);
    const auto kernel = a.shape.dtype == Dtype::float32 ? cpu::diffusion_loss<float> : cpu::diffusion_loss<cpu::bfloat16>;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) kernel(a, b * size, b * size + size < rows ? b * size + size : rows, a.partial[b]);
    });
    double total = 0.0;
    for (int64_t b = 0; b < blocks; ++b) total += a.partial[b];
    *a.loss = float(total);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mealrec, CPU, library) { Operations<Cpu>::declare(library); }

}  // namespace mealrec
