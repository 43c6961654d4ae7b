#include "osp/http/content_policy.h"

#include <openssl/evp.h>

#include <array>

#include "osp/base/sha256.h"

namespace osp {

std::string content_hash(std::string_view text) {
  const std::string hex = sha256_hex(text);
  std::array<unsigned char, 32> digest;
  for (size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<unsigned char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  std::array<unsigned char, 45> base64;
  EVP_EncodeBlock(base64.data(), digest.data(), static_cast<int>(digest.size()));
  return "'sha256-" + std::string(reinterpret_cast<const char*>(base64.data())) + "'";
}

}  // namespace osp
