#include "osp/bench/peer_settings.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "osp/base/test_error.h"
#include "osp/bench/child.h"

namespace osp {
namespace {

TEST(PeerSettings, TheFastestIsTakenAndEachIsTold) {
  Json trials = Json::array();
  const auto& all = all_peer_settings();
  const auto& fastest = fastest_settings(
      [&](const PeerSettings& one) { return one.name == all[2].name ? 9.0 : 5.0; }, "rate", trials);
  EXPECT_EQ(fastest.name, all[2].name);
  ASSERT_EQ(trials.size(), all.size());
  EXPECT_EQ(trials[2]["rate"], 9.0);
  EXPECT_EQ(trials[0]["settings"], "defaults");
}

// OMP_WAIT_POLICY and the memory's settings as a program sees them.
Json seen(const Environment& environment) {
  Json result = run_child({"/bin/sh", "-c",
                           R"(printf '{"wait": "%s", "top": "%s"}' "${OMP_WAIT_POLICY-none}" )"
                           R"("${MALLOC_TOP_PAD_-none}")"},
                          environment);
  result.erase(kProcess);
  return result;
}

TEST(PeerSettings, TheTimeOfAWholeProcessIsKept) {
  const Json result = run_child({"/bin/sh", "-c",
                                 "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done;"
                                 "sleep 0.2; echo '{}'"});
  EXPECT_GT(result[kProcess]["cpu_seconds"], 0.0);
  EXPECT_GT(result[kProcess]["wall_seconds"], 0.2);
}

TEST(PeerSettings, HowAProgramEndedIsSaid) {
  const auto run = [](const char* script) {
    return [script] { run_child({"/bin/sh", "-c", script}); };
  };
  expect_error(ErrorCode::unsupported, {"exit 3 ended with status 3; "}, run("exit 3"));
  expect_error(ErrorCode::unsupported, {"was ended by signal 9; "}, run("kill -9 $$"));
}

TEST(PeerSettings, AProgramGetsItsSettingsAndNotOurs) {
  setenv("OMP_WAIT_POLICY", "passive", 1);
  const auto& all = all_peer_settings();
  EXPECT_EQ(seen(all[0].environment), (Json{{"wait", "none"}, {"top", "none"}}));
  EXPECT_EQ(seen(all[1].environment), (Json{{"wait", "none"}, {"top", "67108864"}}));
  EXPECT_EQ(seen(all[2].environment), (Json{{"wait", "PASSIVE"}, {"top", "67108864"}}));
  // Other allocators are files that a program can load.
  for (size_t i = 4; i < all.size(); ++i) {
    const Json child = run_child({"/bin/sh", "-c",
                                  R"(grep -qF "$LD_PRELOAD" /proc/$$/maps && loaded=true; )"
                                  R"(printf '{"loaded": %s, "wait": "%s"}' "${loaded-false}" )"
                                  R"("${OMP_WAIT_POLICY-none}")"},
                                 all[i].environment);
    EXPECT_TRUE(child["loaded"]) << all[i].name;
    EXPECT_EQ(child["wait"], "none");
  }
  EXPECT_EQ(seen({})["wait"], "passive");
  unsetenv("OMP_WAIT_POLICY");
}

}  // namespace
}  // namespace osp
