// A clock of the day that jumps, for scripts/torture.py: preloaded (LD_PRELOAD), it adds years,
// hours or seconds to what the system says, another offset every few calls, also back in time. The
// monotonic clock stays as it is, because no system lets that one jump.
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <ctime>

namespace {

constexpr int64_t kOffsets[] = {0, 3600, -3600, 86400 * 365 * 60LL, -86400 * 365 * 40LL, 1, -1};
constexpr uint64_t kCallsBetweenJumps = 3;

int64_t offset_s() {
  static std::atomic<uint64_t> calls{0};
  const uint64_t jump = calls.fetch_add(1) / kCallsBetweenJumps;
  return kOffsets[jump % (sizeof(kOffsets) / sizeof(kOffsets[0]))];
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int status = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    time->tv_sec += offset_s();
  }
  return status;
}

int gettimeofday(timeval* time, void*) noexcept {
  timespec now;
  const int status = clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return status;
}

time_t time(time_t* result) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result != nullptr) *result = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
