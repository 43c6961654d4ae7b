// SHA-256 (OpenSSL) of bytes and of files.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace osp {

// Streaming SHA-256. hex() may be called once, at the end.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, size_t num_bytes);
  std::string hex();  // 64 lower-case digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);
// Reads the file in pieces; throws Error(io) naming it.
std::string sha256_file(const std::string& path);

}  // namespace osp
