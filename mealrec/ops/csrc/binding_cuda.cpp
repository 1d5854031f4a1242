// Registers the operations for CUDA tensors: on the tensors' device and its current stream.
#include "binding.h"
#include "launch.h"

#include <torch/csrc/stable/accelerator.h>

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace mealrec {
namespace {

template <class Arguments>
void launch(int (*kernel)(const Arguments&, void*), const Arguments& a, const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device());
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device(), &stream));
  const int code = kernel(a, stream);
  STD_TORCH_CHECK(code == 0, "CUDA refused the launch: ", cuda::error_name(code));
}

struct Cuda {
  static void q_sample(const QSample& a, const Tensor& on) { launch(cuda::q_sample, a, on); }
  static void scale_rows(const ScaleRows& a, const Tensor& on) { launch(cuda::scale_rows, a, on); }
  static void reverse_step(const ReverseStep& a, const Tensor& on) { launch(cuda::reverse_step, a, on); }
  static void diffusion_loss(const DiffusionLoss& a, const Tensor& on) { launch(cuda::diffusion_loss, a, on); }
  static void diffusion_loss_gradient(const DiffusionLossGradient& a, const Tensor& on) {
    launch(cuda::diffusion_loss_gradient, a, on);
  }
  static void dropout(const Dropout& a, const Tensor& on) { launch(cuda::dropout, a, on); }
  static void draw(const Draw& a, const Tensor& on) { launch(cuda::draw, a, on); }
  static int64_t loss_blocks(const Shape& shape) { return cuda::loss_blocks(shape); }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mealrec, CUDA, library) { Operations<Cuda>::declare(library); }

}  // namespace mealrec
