#include "osp/train/device.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include "osp/base/error.h"

namespace osp {

at::Device open_device(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  OSP_CHECK(name == "cuda", "device {}", name);
  // Registers the CUDA kernels with the dispatcher; kept for the life of the process.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    fail(ErrorCode::unsupported,
         "device cuda: libtorch_cuda.so cannot be loaded ({}); use --device cpu", dlerror());
  }
  if (!at::globalContext().hasCUDA()) {
    fail(ErrorCode::unsupported, "device cuda: no CUDA device was found; use --device cpu");
  }
  return at::Device(at::kCUDA, 0);
}

void move_banks(ParameterStore& store, const std::string& device) {
  const at::Device target = open_device(device);
  if (target.is_cpu()) return;
  for (Bank& bank : store.banks) {
    const bool shared = bank.compute.is_same(bank.master);
    bank.master = bank.master.to(target);
    bank.compute = shared ? bank.master : bank.compute.to(target);
    if (bank.gradient.defined()) bank.gradient = bank.gradient.to(target);
  }
}

}  // namespace osp
