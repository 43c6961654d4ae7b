#include "osp/eval/answer_text.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

using Texts = std::vector<std::string>;

TEST(AnswerText, QuasiExactMatchNormalisesAsTheReference) {
  const Texts names = {"phar lap"}, numbers = {"x #### 1,200"};
  EXPECT_TRUE(trivia_matches("  Phar-Lap", Texts{"pharlap"}));
  EXPECT_TRUE(trivia_matches(" Phar Lap!\n", names));
  EXPECT_FALSE(trivia_matches("The Phar Lap", names));
  EXPECT_FALSE(trivia_matches("", Texts{""}));
  EXPECT_TRUE(gsm8k_matches("so #### 1200 it is", numbers));
  EXPECT_FALSE(gsm8k_matches("so 1200", numbers));
  EXPECT_FALSE(gsm8k_matches("#### 1200.0", numbers));
  // lm-eval's metric drops a full stop at the end, the reference's does not.
  EXPECT_TRUE(gsm8k_matches_lm_eval("#### 1,200.", numbers));
  EXPECT_FALSE(gsm8k_matches_lm_eval("#### 1200.0", numbers));
  EXPECT_FALSE(gsm8k_matches_lm_eval("", numbers));
  EXPECT_FALSE(gsm8k_matches("#### 1200.", numbers));
  EXPECT_EQ(gsm8k_number("#### -3,000"), "-3000");
  EXPECT_EQ(gsm8k_number("#### x #### 4"), "4");
}

TEST(AnswerText, FollowsPythonsStrings) {
  EXPECT_EQ(stripped("\xC2\xA0 a\t\n"), "a");
  EXPECT_EQ(stripped("  "), "");
  EXPECT_EQ(trailing_space_bytes("a:\xC2\xA0 "), 3u);
  EXPECT_EQ(num_characters("é–a"), 3);
  EXPECT_EQ(capitalized("éTÉ Of"), "Été of");
  EXPECT_EQ(without_brackets("Cut [title] it [a\nb] [step]  up"),
            "Cut. it [a\nb]  up");  // three spaces become two, as with str.replace
}

}  // namespace
}  // namespace osp
