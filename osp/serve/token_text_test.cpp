// Places of tokens whose bytes are parts of characters.
#include "osp/serve/token_text.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(TokenPlaces, CountCharactersAndNotBytes) {
  TokenPlaces places(5);
  EXPECT_EQ(places.place("né"), 5);
  EXPECT_EQ(places.place(""), 7);
  EXPECT_EQ(places.place("\xE2\x82"), 7);  // of the euro sign
  EXPECT_EQ(places.place("\xAC"), 7);
  EXPECT_EQ(places.place(" a"), 8);
  EXPECT_EQ(places.place("b"), 10);
}

TEST(TokenPlaces, BytesThatAreNoCharactersCountAsTheyAreShown) {
  TokenPlaces places;
  EXPECT_EQ(places.place("\xFF\xFE"), 0);
  EXPECT_EQ(places.place("\xE2\x82"), 2);
  EXPECT_EQ(places.place("x"), 2);  // the two bytes became one U+FFFD
  EXPECT_EQ(places.place("y"), 4);
}

TEST(CountCharacters, IsThatOfPython) {
  EXPECT_EQ(count_characters(""), 0);
  EXPECT_EQ(count_characters("aé€\xF0\x9F\x98\x80"), 4);
}

}  // namespace
}  // namespace osp
