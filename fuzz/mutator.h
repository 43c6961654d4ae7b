// What structure-aware mutators share: random choices, numbers and texts worth a try, changes of
// bytes, and the hook of libFuzzer.
//
// A mutator makes a changed input of an input, mostly one whose framing (lengths, counts, offsets)
// is still right, so that what is tested lies behind the first checks:
//
//   std::string mutated(std::string_view input, osp::fuzz::Dice& dice);   "" where it cannot
//   OSP_MUTATOR(mutated)
//
// Every second mutation sets out from an input that the parser has accepted (fuzz/accepted.h):
// those of libFuzzer's corpus are mostly refused, each in its own way. What the mutator cannot
// change, and one mutation in eight, is left to libFuzzer; all of them with OSP_FUZZ_PLAIN=1, to
// compare. Tests run mutators as well (fuzz/replay/main.cpp).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "fuzz/accepted.h"

// libFuzzer's own mutation, in place; returns the new size.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace osp::fuzz {

// Choices that follow from a seed.
class Dice {
 public:
  explicit Dice(unsigned seed) : random_(seed) {}
  size_t below(size_t bound) { return random_() % bound; }
  bool one_in(size_t count) { return below(count) == 0; }
  template <class Items>
  auto& one_of(Items& items) {
    return *std::next(std::begin(items), static_cast<std::ptrdiff_t>(below(std::size(items))));
  }

 private:
  std::minstd_rand random_;
};

// A number at the edge of some type or block, or a small one.
inline uint64_t some_number(Dice& dice) {
  static constexpr uint64_t kEdges[] = {127,         128,       255,         256,       32767,
                                        65535,       65536,     2147483647,  1u << 31u, 4294967295u,
                                        1ull << 32u, INT64_MAX, 1ull << 63u, UINT64_MAX};
  return dice.one_in(3) ? dice.one_of(kEdges) : dice.below(70);
}

inline std::string some_text(Dice& dice) {
  static const std::string kTexts[] = {"",
                                       "a",
                                       " ",
                                       "\n",
                                       "\"",
                                       "x.y",
                                       "\xC3\xA9",
                                       "\xF0\x9F\x98\x80",
                                       "\xFF\xC3",
                                       {"\0b", 2},
                                       "weight/",
                                       "..",
                                       "[",
                                       "%s",
                                       "1",
                                       "-1",
                                       "true",
                                       "nan",
                                       std::string(70, 'x')};
  return dice.one_of(kTexts);
}

// The text with a bit, a byte or a piece changed, removed, doubled or inserted.
inline std::string changed_bytes(std::string text, Dice& dice) {
  const size_t place = dice.below(text.size() + 1);
  const size_t length = dice.below(dice.one_in(4) ? text.size() + 1 : 4);
  switch (text.empty() ? 0 : dice.below(5)) {
    case 0:
      return text.insert(place, some_text(dice));
    case 1:
      return text.erase(place, length);
    case 2:
      return text.insert(place, text.substr(dice.below(text.size()), length));
    case 3:
      text[place % text.size()] = static_cast<char>(dice.below(256));
      return text;
    default:
      text[place % text.size()] = static_cast<char>(text[place % text.size()] ^ 1 << dice.below(8));
      return text;
  }
}

template <class Function>
size_t mutate(uint8_t* data, size_t size, size_t max_size, unsigned seed, const Function& mutated) {
  static const bool plain = std::getenv("OSP_FUZZ_PLAIN") != nullptr;
  Dice dice(seed);
  std::string result;
  if (!plain && !dice.one_in(8)) {
    const auto& kept = accepted_inputs.kept;
    const bool known = !kept.empty() && dice.one_in(2);
    result = known ? mutated(std::string_view(dice.one_of(kept)), dice)
                   : mutated(std::string_view(reinterpret_cast<const char*>(data), size), dice);
  }
  if (result.empty() || result.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, result.data(), result.size());
  return result.size();
}

}  // namespace osp::fuzz

#define OSP_MUTATOR(mutated)                                                             \
  extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, \
                                            unsigned seed) {                             \
    return osp::fuzz::mutate(data, size, max_size, seed, mutated);                       \
  }
