// Runs kernels on the CPU: a fiber for each thread of a block, one block after another.
//
// A warp runs as far as it can before the next one begins, and its lanes one after another from one warp operation
// to the next, so that what relies on an order that nobody promised shows: blocks, warps and lanes come in
// ascending, descending or random order.
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <ucontext.h>

#include "cuda_runtime.h"

Dim3 threadIdx, blockIdx, gridDim;

namespace machine {
namespace {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr uint64_t MOST_BLOCKS = 0x7FFFFFFF;
constexpr size_t STACK = 64 << 10;

enum class Order { ascending, descending, random };
enum class State { ready, at_collective, at_barrier, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  Collective kind;
  uint32_t mask, value, answer;
  unsigned offset;
};

Order order = Order::ascending;
bool rounding = false;     // approximations are off by their bounds
uint64_t last_blocks = 0;  // only that many are run, if not 0
std::mt19937 random_bits;

std::vector<Fiber> fibers;
ucontext_t scheduler;
unsigned current;
const std::function<void()>* job;
std::string said;  // the fault, if any

void pause(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}

// Ends the launch: the scheduler never comes back to this thread.
void fault(const std::string& what) {
  said = what + " (block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ")";
}

void run_threads() {
  for (;;) {
    (*job)();
    pause(State::done);
  }
}

void make_fibers(unsigned count) {
  fibers.resize(count);
  for (Fiber& fiber : fibers) {
    fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    makecontext(&fiber.context, run_threads, 0);
  }
}

template <class Number>
void arrange(std::vector<Number>& numbers) {
  if (order == Order::descending) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::random) std::shuffle(numbers.begin(), numbers.end(), random_bits);
}

// A warp operation is done once all lanes of its mask have come to it.
bool complete(unsigned warp, const Fiber& fiber) {
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(fiber.mask >> lane & 1)) continue;
    if (warp + lane >= fibers.size()) return fault("a mask names a lane that is not there"), false;
    const Fiber& other = fibers[warp + lane];
    if (other.state == State::done) return fault("a mask names a lane that has ended"), false;
    if (other.state != State::at_collective || other.kind != fiber.kind || other.mask != fiber.mask) return false;
  }
  return true;
}

void answer(unsigned warp, uint32_t mask) {
  uint32_t united = 0;
  for (unsigned lane = 0; lane < WARP; ++lane)
    if (mask >> lane & 1) united |= fibers[warp + lane].value;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Fiber& fiber = fibers[warp + lane];
    const unsigned from = lane + fiber.offset;
    if (fiber.kind == Collective::reduce_or) fiber.answer = united;
    if (fiber.kind == Collective::shuffle_down) {
      const bool undefined = from < WARP && !(mask >> from & 1);
      fiber.answer = undefined ? 0x7FC00000 : from < WARP ? fibers[warp + from].value : fiber.value;
    }
    fiber.state = State::ready;
  }
}

// Answers the warp's waiting lanes; false where none waits.
bool answer_collectives(unsigned warp) {
  bool waiting = false, answered = false;
  for (unsigned lane = 0; lane < WARP && warp + lane < fibers.size() && said.empty(); ++lane) {
    Fiber& fiber = fibers[warp + lane];
    if (fiber.state != State::at_collective) continue;
    waiting = true;
    if (!(fiber.mask >> lane & 1)) {
      fault("a mask without its own lane");
    } else if (complete(warp, fiber)) {
      answer(warp, fiber.mask);
      answered = true;
    }
  }
  if (!said.empty() || !waiting) return false;
  if (!answered) fault("lanes of one mask wait at different operations");
  return said.empty();
}

void run_warp(unsigned warp) {
  std::vector<unsigned> lanes(std::min<size_t>(WARP, fibers.size() - warp));
  std::iota(lanes.begin(), lanes.end(), warp);
  arrange(lanes);
  do {
    for (const unsigned thread : lanes) {
      if (fibers[thread].state != State::ready) continue;
      current = thread;
      threadIdx = {thread};
      swapcontext(&scheduler, &fibers[thread].context);
      if (!said.empty()) return;
    }
  } while (answer_collectives(warp));
}

void run_block(unsigned block) {
  blockIdx = {block};
  std::vector<unsigned> warps((fibers.size() + WARP - 1) / WARP);
  for (unsigned i = 0; i < warps.size(); ++i) warps[i] = i * WARP;
  arrange(warps);
  for (Fiber& fiber : fibers) fiber.state = State::ready;
  for (;;) {
    for (const unsigned warp : warps) {
      run_warp(warp);
      if (!said.empty()) return;
    }
    const auto in = [](State state) { return [state](const Fiber& fiber) { return fiber.state == state; }; };
    if (std::all_of(fibers.begin(), fibers.end(), in(State::done))) return;
    if (!std::all_of(fibers.begin(), fibers.end(), in(State::at_barrier)))
      return fault("a barrier that some threads do not reach");
    for (Fiber& fiber : fibers) fiber.state = State::ready;
  }
}

}  // namespace

void launch(uint64_t blocks, unsigned threads, const std::function<void()>& kernel) {
  said.clear();
  if (blocks == 0 || blocks > MOST_BLOCKS || threads == 0 || threads > MOST_THREADS)
    return fault("a grid of " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads");
  gridDim = {unsigned(blocks)};
  job = &kernel;
  if (fibers.size() != threads) make_fibers(threads);
  std::vector<unsigned> numbers(last_blocks && last_blocks < blocks ? last_blocks : blocks);
  std::iota(numbers.begin(), numbers.end(), unsigned(blocks - numbers.size()));
  arrange(numbers);
  for (const unsigned block : numbers) {
    run_block(block);
    if (!said.empty()) return fibers.clear();  // they stand somewhere in the kernel
  }
}

void block_barrier() { pause(State::at_barrier); }

uint32_t collective(Collective kind, uint32_t mask, uint32_t value, unsigned offset) {
  const unsigned self = current;
  Fiber& fiber = fibers[self];
  fiber.kind = kind;
  fiber.mask = mask;
  fiber.value = value;
  fiber.offset = offset;
  pause(State::at_collective);
  return fibers[self].answer;
}

void check_alignment(const void* address, size_t size) {
  if (reinterpret_cast<uintptr_t>(address) % size == 0) return;
  fault("an address that is not a multiple of " + std::to_string(size));
  pause(State::done);
}

void trap() {
  fault("a trap");
  pause(State::done);
}

float approximate(double exact, double absolute, double relative) {
  if (!rounding) return float(exact);
  const double error = absolute + std::fabs(exact) * relative;
  return float(random_bits() & 1 ? exact + error : exact - error);
}

extern "C" void machine_set(int which_order, bool with_rounding, uint64_t blocks, unsigned seed) {
  order = Order(which_order);
  rounding = with_rounding;
  last_blocks = blocks;
  random_bits.seed(seed);
}

}  // namespace machine

int cudaGetLastError() { return machine::said.empty() ? 0 : 1; }
const char* cudaGetErrorString(cudaError_t) { return machine::said.c_str(); }
