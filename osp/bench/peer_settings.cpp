#include "osp/bench/peer_settings.h"

#include "osp/base/file.h"

namespace osp {
namespace {

// The settings of osp's mallopt() calls.
const Environment kKeepMemory = {"MALLOC_MMAP_THRESHOLD_=1073741824",
                                 "MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_TOP_PAD_=67108864"};

Environment with(Environment environment, std::initializer_list<const char*> more) {
  environment.insert(environment.end(), more.begin(), more.end());
  return environment;
}

// PyTorch's tuning guide says: "MALLOC_CONF" for jemalloc, nothing beside the library for TCMalloc.
const char* const kJemalloc =
    "MALLOC_CONF=oversize_threshold:1,background_thread:true,metadata_thp:auto,"
    "dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000";

// The path of a shared library where Debian and others install it; "" if it is not there.
std::string library_path(const std::string& name) {
  for (const char* folder :
       {"/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/", "/usr/lib/"}) {
    if (path_exists(folder + name)) return folder + name;
  }
  return "";
}

std::vector<PeerSettings> make_settings() {
  std::vector<PeerSettings> all = {
      {"defaults", {"OMP_WAIT_POLICY"}},
      {"keep freed memory", with(kKeepMemory, {"OMP_WAIT_POLICY"})},
      {"keep freed memory, threads wait passively", with(kKeepMemory, {"OMP_WAIT_POLICY=PASSIVE"})},
      {"keep freed memory, threads bound to cores",
       with(kKeepMemory, {"OMP_WAIT_POLICY", "OMP_PROC_BIND=true", "OMP_PLACES=cores"})},
  };
  // Other allocators, where they are installed.
  if (const std::string file = library_path("libtcmalloc_minimal.so.4"); !file.empty()) {
    all.push_back({"TCMalloc", {"OMP_WAIT_POLICY", "LD_PRELOAD=" + file}});
  }
  if (const std::string file = library_path("libjemalloc.so.2"); !file.empty()) {
    all.push_back({"jemalloc", {"OMP_WAIT_POLICY", "LD_PRELOAD=" + file, kJemalloc}});
  }
  return all;
}

}  // namespace

const std::vector<PeerSettings>& all_peer_settings() {
  static const std::vector<PeerSettings> all = make_settings();
  return all;
}

const PeerSettings& fastest_settings(const std::function<double(const PeerSettings&)>& measure,
                                     const std::string& unit, Json& trials) {
  const std::vector<PeerSettings>& all = all_peer_settings();
  size_t best = 0;
  double most = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const double rate = measure(all[i]);
    trials.push_back({{"settings", all[i].name}, {unit, rate}});
    if (rate > most) {
      most = rate;
      best = i;
    }
  }
  return all[best];
}

}  // namespace osp
