"""The fused kernels against the reference in float64.

Values, gradients, shapes, strides, and what PyTorch does with an operator.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mealrec.ops import (
    Counters,
    Sampler,
    Schedule,
    bernoulli,
    corrupt,
    diffusion_loss,
    dropout,
    normal,
    q_sample,
    reverse_step,
    tables,
    words,
)

SCHEDULE = Schedule("linear", 10)
SHAPES = [(1, 1), (5, 3), (7, 4), (37, 64), (64, 33), (3, 130), (300, 512), (2, 5000)]
DTYPES = [torch.float32, torch.bfloat16]
# Rounding of the stored result, and for CUDA the normals' own tolerance.
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2}}


def make_counters(rows, device="cpu"):
    index = torch.arange(rows, device=device)
    seed, step = torch.tensor(11, device=device), torch.tensor(3, device=device)
    return Counters(seed, step, index * 7, index + 2**31)


def on_cpu(counters):
    return Counters(counters.seed.cpu(), counters.step.cpu(), counters.sample_id.cpu(), counters.row.cpu())


def rows(shape, dtype, device, count=1):
    return torch.randn(count, *shape, device=device).to(dtype).unbind(0)


def steps_of(count, device):
    return torch.arange(count, device=device) % SCHEDULE.steps


def mask_of(count, device):
    return torch.arange(count, device=device) % 3 != 1


def close(result, expected, dtype, device, **tolerance):
    tolerance = tolerance or TOLERANCE[dtype]
    if device == "cuda" and dtype == torch.float32:
        tolerance = {"rtol": 1e-4, "atol": 1.5e-3}
    torch.testing.assert_close(result.cpu().double(), expected.double(), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_q_sample(fused, shape, dtype, masked):
    (x0,) = rows(shape, dtype, fused)
    t, counters = steps_of(shape[0], fused), make_counters(shape[0], fused)
    mask = mask_of(shape[0], fused) if masked else None
    result = q_sample(x0, t, SCHEDULE, counters, 5, mask_R=mask, kernel=fused)
    expected = q_sample(
        x0.double().cpu(),
        t.cpu(),
        SCHEDULE,
        on_cpu(counters),
        5,
        mask_R=None if mask is None else mask.cpu(),
        kernel="reference",
    )
    assert result.dtype == dtype and result.is_contiguous()
    close(result, expected, dtype, fused)
    if masked:
        assert not result[~mask].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 3])
def test_corrupt_draws_its_steps(fused, dtype, group):
    (x0,) = rows((50, 24), dtype, fused)
    counters = make_counters(50, fused)
    result, t = corrupt(x0, SCHEDULE, counters, 5, 6, group=group, kernel=fused)
    expected, t_expected = corrupt(
        x0.double().cpu(), SCHEDULE, on_cpu(counters), 5, 6, group=group, kernel="reference"
    )
    assert torch.equal(t.cpu(), t_expected) and len(t.unique()) > 5
    close(result, expected, dtype, fused)
    assert torch.equal(result, q_sample(x0, t, SCHEDULE, counters, 5, kernel=fused))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 8, 64, 130])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_by_index_are_those_of_a_copy(kernel, dtype, columns, masked):
    name, device = kernel
    wide = torch.randn(9, columns + 3, device=device).to(dtype)
    (prediction,) = rows((50, columns), dtype, device)
    index, counters = torch.arange(50, device=device) * 7 % 9, make_counters(50, device)
    mask = mask_of(50, device) if masked else None
    t = steps_of(50, device)
    results = []
    for source, row in ((wide[:, :columns], index), (wide[index, :columns], None)):
        x0 = source.detach().requires_grad_()
        own = prediction.detach().requires_grad_()
        at = {"mask_R": mask, "row_R": row, "kernel": name}
        noisy = q_sample(x0, t, SCHEDULE, counters, 5, **at)
        drawn, steps = corrupt(x0, SCHEDULE, counters, 5, 6, group=3, **at)
        loss = diffusion_loss(own, x0, mask, row_R=row, kernel=name)
        (loss + (noisy * prediction).sum() + drawn.sum()).backward()
        results.append((noisy, drawn, steps, loss, own.grad))
        gradient = x0.grad.double()
        if row is None:
            gradient = torch.zeros(9, columns, device=device).double().index_add_(0, index, gradient)
        results[-1] += (gradient,)
    for one, other in zip(results[0][:-1], results[1][:-1], strict=True):
        assert torch.equal(one, other)
    # In bfloat16 the rows of a copy are rounded before they are summed.
    atol = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(results[0][-1], results[1][-1], rtol=0.02, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("ddpm", 0.0)])
def test_reverse_step(fused, shape, dtype, guided, name, eta):
    x, x0hat, null = rows(shape, dtype, fused, 3)
    t, counters = steps_of(shape[0], fused), make_counters(shape[0], fused)
    t_prev = (t - 2).clamp_min(-1)
    sampler = Sampler(name, eta, 0.6 if guided else 0.0)
    result = reverse_step(
        x,
        x0hat,
        t,
        t_prev,
        SCHEDULE,
        counters,
        7,
        sampler=sampler,
        null_RD=null if guided else None,
        mask_R=mask_of(shape[0], fused),
        kernel=fused,
    )
    expected = reverse_step(
        x.double().cpu(),
        x0hat.double().cpu(),
        t.cpu(),
        t_prev.cpu(),
        SCHEDULE,
        on_cpu(counters),
        7,
        sampler=sampler,
        null_RD=null.double().cpu() if guided else None,
        mask_R=mask_of(shape[0], "cpu"),
        kernel="reference",
    )
    # Near the end of the chain 1 - abar is small and known to float32: the coefficients' own rounding.
    tolerance = {"rtol": 3e-4, "atol": 3e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 3e-2}
    close(result, expected, dtype, fused, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_diffusion_loss_and_its_gradient(fused, shape, dtype, masked):
    prediction, target = rows(shape, dtype, fused, 2)
    mask = mask_of(shape[0], fused) if masked else None
    wide = prediction.double().cpu().requires_grad_()
    prediction.requires_grad_()
    loss = diffusion_loss(prediction, target, mask, kernel=fused)
    cpu_mask = None if mask is None else mask.cpu()
    expected = diffusion_loss(wide, target.double().cpu(), cpu_mask, kernel="reference")
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss.detach().cpu().double(), expected.detach(), rtol=2e-6, atol=1e-6)
    (3 * loss).backward()
    (3 * expected).backward()
    close(prediction.grad, wide.grad, dtype, "cpu")


def test_the_sum_of_the_loss_has_a_fixed_order(fused):
    prediction, target = rows((5000, 96), torch.float32, fused, 2)
    losses = {float(diffusion_loss(prediction, target, kernel=fused)) for _ in range(5)}
    if fused == "cpu":
        threads = torch.get_num_threads()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                losses.add(float(diffusion_loss(prediction, target, kernel=fused)))
        finally:
            torch.set_num_threads(threads)
    assert len(losses) == 1


def test_the_loss_does_not_depend_on_where_the_rows_lie(fused):
    for _ in range(20):
        prediction, target = rows((7, 24), torch.float32, fused, 2)
        padded = torch.nn.functional.pad(prediction, (0, 5))[:, :24]
        losses = [
            diffusion_loss(x, target, mask, kernel=fused)
            for x in (prediction, padded)
            for mask in (None, torch.ones(7, dtype=torch.bool, device=fused))
        ]
        assert len({float(loss) for loss in losses}) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual", [False, True])
def test_dropout_and_its_gradient(fused, shape, dtype, residual):
    x, r = rows(shape, dtype, fused, 2)
    counters = make_counters(shape[0], fused)
    wide = [v.double().cpu().requires_grad_() for v in (x, r)]
    own = [x.requires_grad_(), r.requires_grad_()]
    result = dropout(x, 0.3, counters, 64, residual_RD=r if residual else None, kernel=fused)
    expected = dropout(
        wide[0], 0.3, on_cpu(counters), 64, residual_RD=wide[1] if residual else None, kernel="reference"
    )
    close(result.detach(), expected.detach(), dtype, "cpu")
    direction = torch.randn(shape)
    result.backward(direction.to(fused, dtype))
    expected.backward(direction.to(dtype).double())
    for mine, truth in zip(own[: 1 + residual], wide, strict=False):
        close(mine.grad, truth.grad, dtype, "cpu")


def test_words_and_coins_are_bit_for_bit(fused):
    counters = make_counters(1000, fused)
    cpu = on_cpu(counters)
    for columns in (1, 3, 4, 9, 64):
        result = words(counters, columns, 3, kernel=fused)
        assert torch.equal(result.cpu(), words(cpu, columns, 3, kernel="reference"))
    assert torch.equal(
        bernoulli(counters, 0.3, 1, kernel=fused).cpu(), bernoulli(cpu, 0.3, 1, kernel="reference")
    )


def test_normals_within_their_tolerance(fused):
    counters = make_counters(20_000, fused)
    result = normal(counters, 128, 3, kernel=fused).cpu()
    expected = normal(on_cpu(counters), 128, 3, kernel="reference")
    error = (result - expected).abs()
    if fused == "cpu":
        assert float((error / expected.abs()).max()) < 1e-6
    else:
        assert float((error < 1e-5).float().mean()) > 0.999 and float(error.max()) < 1.5e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_a_stride(fused, dtype):
    wide = torch.randn(40, 100, device=fused).to(dtype)
    t, counters = steps_of(40, fused), make_counters(40, fused)
    for part in (wide[:, :64], wide[:, 3:67], wide[::2, :48]):
        count = len(part)
        here = make_counters(count, fused)
        assert torch.equal(
            q_sample(part, t[:count], SCHEDULE, here, 5, kernel=fused),
            q_sample(part.contiguous(), t[:count], SCHEDULE, here, 5, kernel=fused),
        )
        assert torch.equal(
            dropout(part, 0.5, here, 64, residual_RD=part, kernel=fused),
            dropout(part.contiguous(), 0.5, here, 64, residual_RD=part.contiguous(), kernel=fused),
        )
    expanded = torch.randn(1, 64, device=fused).to(dtype).expand(40, 64)
    assert torch.equal(
        q_sample(expanded, t, SCHEDULE, counters, 5, kernel=fused),
        q_sample(expanded.contiguous(), t, SCHEDULE, counters, 5, kernel=fused),
    )


def test_no_rows(fused):
    empty, none = torch.zeros(0, 8, device=fused), torch.zeros(0, dtype=torch.int64, device=fused)
    counters = make_counters(0, fused)
    assert q_sample(empty, none, SCHEDULE, counters, 1, kernel=fused).shape == (0, 8)
    assert float(diffusion_loss(empty, empty, kernel=fused)) == 0


def test_steps_are_drawn_without_columns(fused):
    counters = make_counters(50, fused)
    empty, full = torch.zeros(50, 0, device=fused), torch.zeros(50, 8, device=fused)
    result, t = corrupt(empty, SCHEDULE, counters, 5, 6, kernel=fused)
    assert result.shape == (50, 0)
    assert torch.equal(t, corrupt(full, SCHEDULE, counters, 5, 6, kernel=fused)[1])


def test_gradients_of_linear_operations(fused):
    t, counters = steps_of(30, fused), make_counters(30, fused)
    mask = mask_of(30, fused)
    for dtype in DTYPES:
        own = [v.requires_grad_() for v in rows((30, 20), dtype, fused, 3)]
        wide = [v.detach().double().cpu().requires_grad_() for v in own]
        at = {fused: (t, counters, mask), "reference": (t.cpu(), on_cpu(counters), mask.cpu())}
        for kernel, (x, x0hat, null) in ((fused, own), ("reference", wide)):
            step, row_counters, on = at[kernel]
            noisy = q_sample(x, step, SCHEDULE, row_counters, 1, mask_R=on, kernel=kernel)
            back = reverse_step(
                noisy,
                x0hat,
                step,
                step - 1,
                SCHEDULE,
                row_counters,
                2,
                sampler=Sampler("ddpm", guidance=0.4),
                null_RD=null,
                mask_R=on,
                kernel=kernel,
            )
            (back * torch.arange(20, device=back.device)).sum().backward()
        for mine, truth in zip(own, wide, strict=True):
            relative = {"rtol": 3e-4, "atol": 3e-3} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 0.3}
            torch.testing.assert_close(mine.grad.cpu().double(), truth.grad, **relative)


def test_gradcheck_of_the_reference():
    counters, t = make_counters(4), torch.tensor([0, 3, 9, 5])
    x, y, null = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True).unbind(0)
    mask = torch.tensor([True, False, True, True])

    def all_of(x, y, null):
        noisy = q_sample(x, t, SCHEDULE, counters, 1, mask_R=mask, kernel="reference")
        noisy = dropout(noisy, 0.4, counters, 64, residual_RD=x, kernel="reference")
        back = reverse_step(
            noisy,
            y,
            t,
            t - 1,
            SCHEDULE,
            counters,
            2,
            sampler=Sampler(eta=0.5, guidance=0.3),
            null_RD=null,
            kernel="reference",
        )
        return diffusion_loss(back, torch.zeros_like(back), mask, kernel="reference")

    assert torch.autograd.gradcheck(all_of, (x, y, null))


def test_operator_contracts(fused):
    """Schema, fake and autograd parts agree with what the operators do."""
    ops, table = torch.ops.mealrec, tables(SCHEDULE, torch.device(fused))
    t, counters, mask = steps_of(6, fused), make_counters(6, fused), mask_of(6, fused)
    at = (counters.seed, counters.step, counters.sample_id, counters.row)
    row, three = torch.arange(6, device=fused) % 4, torch.tensor(3.0, device=fused)
    for dtype in DTYPES:
        (few,) = (v.requires_grad_() for v in rows((4, 5), dtype, fused))
        x, y, z = (v.requires_grad_() for v in rows((6, 5), dtype, fused, 3))
        calls = [
            (ops.q_sample, (x, None, t, table.signal, table.noise, mask, *at, 1)),
            (ops.q_sample, (few, row, t, table.signal, table.noise, mask, *at, 1)),
            (ops.q_sample_drawn, (few, row, table.signal, table.noise, None, *at, 1, 2, 3)),
            (ops.scale_rows, (x, t, table.signal, mask)),
            (ops.reverse_step, (x, y, z, t, t - 1, table.abar, 0.5, 0.3, False, mask, *at, 1)),
            (ops.reverse_step, (x, y, None, t, t - 1, table.abar, 0.0, 0.0, True, None, *at, 1)),
            (ops.diffusion_loss, (x, y.detach(), None, mask)),
            (ops.diffusion_loss_gradient, (x.detach(), few.detach(), row, mask, three)),
            (ops.dropout, (x, y, 0.2, *at, 1)),
            (ops.words, (*at, 5, 1)),
            (ops.normal, (*at, 5, 1)),
        ]
        for operator, arguments in calls:
            torch.library.opcheck(operator, arguments)


def everything(x, counters, mask, kernel):
    """Each operation once, as a model would use them."""
    row = torch.arange(len(x), device=x.device) // 2
    noisy, t = corrupt(x, SCHEDULE, counters, 1, 2, mask_R=mask, row_R=row, kernel=kernel)
    hidden = dropout(torch.tanh(noisy), 0.2, counters, 64, residual_RD=noisy, kernel=kernel)
    back = reverse_step(
        noisy, hidden, t, t - 1, SCHEDULE, counters, 3, sampler=Sampler("ddpm"), kernel=kernel
    )
    return back.sum() + diffusion_loss(hidden, x.detach(), mask, row_R=row, kernel=kernel)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["auto", "named"])
def test_compiles_without_a_graph_break(fused, kernel):
    kernel = fused if kernel == "named" else "auto"
    counters, mask = make_counters(32, fused), mask_of(32, fused)
    results = []
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for function in (everything, compiled):
        (x,) = rows((32, 16), torch.float32, fused)
        torch.manual_seed(1)
        x = torch.randn(32, 16, device=fused, requires_grad=True)
        loss = function(x, counters, mask, kernel)
        loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])


def test_activation_checkpointing_draws_the_same_noise(fused):
    counters, mask = make_counters(32, fused), mask_of(32, fused)
    x = torch.randn(32, 16, device=fused, requires_grad=True)
    everything(x, counters, mask, fused).backward()
    plain, x.grad = x.grad, None
    checkpoint(everything, x, counters, mask, fused, use_reentrant=False).backward()
    assert torch.equal(plain, x.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestStreamsAndGraphs:
    def test_on_another_stream(self):
        counters, mask = make_counters(5000, "cuda"), mask_of(5000, "cuda")
        x = torch.randn(5000, 256, device="cuda")
        expected = everything(x, counters, mask, "cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = everything(x, counters, mask, "cuda")
        torch.cuda.current_stream().wait_stream(stream)
        assert torch.equal(expected, result)

    def test_a_captured_graph_follows_seed_and_step(self):
        counters, mask = make_counters(500, "cuda"), mask_of(500, "cuda")
        x = torch.randn(500, 64, device="cuda")
        everything(x, counters, mask, "cuda")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = everything(x, counters, mask, "cuda")
        for step in (8, 9):
            counters.step.fill_(step)
            graph.replay()
            assert torch.equal(captured, everything(x, counters, mask, "cuda"))

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
    def test_on_another_device(self):
        counters, mask = make_counters(50, "cuda:1"), mask_of(50, "cuda:1")
        x = torch.randn(50, 64, device="cuda:1")
        here = everything(x.to("cuda:0"), make_counters(50, "cuda:0"), mask.to("cuda:0"), "cuda")
        assert torch.equal(everything(x, counters, mask, "cuda").cpu(), here.cpu())
