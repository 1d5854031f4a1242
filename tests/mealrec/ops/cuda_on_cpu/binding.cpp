// Registers the CUDA kernels, as machine.cpp runs them, for CPU tensors: torch.ops.cuda_on_cpu.
#include "binding.h"
#include "launch.h"

namespace mealrec {
namespace {

void check(int code) { STD_TORCH_CHECK(code == 0, "CUDA refused the launch: ", cuda::error_name(code)); }

struct CudaOnCpu {
  static void q_sample(const QSample& a, const Tensor&) { check(cuda::q_sample(a, nullptr)); }
  static void scale_rows(const ScaleRows& a, const Tensor&) { check(cuda::scale_rows(a, nullptr)); }
  static void reverse_step(const ReverseStep& a, const Tensor&) { check(cuda::reverse_step(a, nullptr)); }
  static void diffusion_loss(const DiffusionLoss& a, const Tensor&) { check(cuda::diffusion_loss(a, nullptr)); }
  static void diffusion_loss_gradient(const DiffusionLossGradient& a, const Tensor&) {
    check(cuda::diffusion_loss_gradient(a, nullptr));
  }
  static void dropout(const Dropout& a, const Tensor&) { check(cuda::dropout(a, nullptr)); }
  static void draw(const Draw& a, const Tensor&) { check(cuda::draw(a, nullptr)); }
  static int64_t loss_blocks(const Shape& shape) { return cuda::loss_blocks(shape); }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cuda_on_cpu, CPU, library) { Operations<CudaOnCpu>::declare(library); }

}  // namespace mealrec
