// The CUDA kernels as functions: they queue work on `stream` and return the CUDA error code of the launch.
#pragma once

#include "arguments.h"

namespace mealrec::cuda {

int q_sample(const QSample&, void* stream);
int scale_rows(const ScaleRows&, void* stream);
int reverse_step(const ReverseStep&, void* stream);
int diffusion_loss(const DiffusionLoss&, void* stream);
int diffusion_loss_gradient(const DiffusionLossGradient&, void* stream);
int dropout(const Dropout&, void* stream);
int draw(const Draw&, void* stream);

int64_t loss_blocks(const Shape&);  // entries of DiffusionLoss::partial
const char* error_name(int code);

}  // namespace mealrec::cuda
