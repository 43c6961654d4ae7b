#include "osp/bench/peer_settings.h"

namespace osp {
namespace {

// The settings of osp's mallopt() calls.
const Environment kKeepMemory = {"MALLOC_MMAP_THRESHOLD_=1073741824",
                                 "MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_TOP_PAD_=67108864"};

Environment with(Environment environment, std::initializer_list<const char*> more) {
  environment.insert(environment.end(), more.begin(), more.end());
  return environment;
}

}  // namespace

const std::vector<PeerSettings>& all_peer_settings() {
  static const std::vector<PeerSettings> all = {
      {"defaults", {"OMP_WAIT_POLICY"}},
      {"keep freed memory", with(kKeepMemory, {"OMP_WAIT_POLICY"})},
      {"keep freed memory, threads wait passively", with(kKeepMemory, {"OMP_WAIT_POLICY=PASSIVE"})},
      {"keep freed memory, threads bound to cores",
       with(kKeepMemory, {"OMP_WAIT_POLICY", "OMP_PROC_BIND=true", "OMP_PLACES=cores"})},
  };
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
