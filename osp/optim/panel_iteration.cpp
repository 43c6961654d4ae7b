#include "osp/optim/panel_iteration.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "osp/ops/isa.h"
#include "osp/optim/momentum_kernels.h"

namespace osp {
namespace {

using namespace panel_kernels;

int64_t panels_of(int64_t count) { return (count + kPanel - 1) / kPanel; }
int64_t blocks_of(int64_t panels) { return (panels + kBlock - 1) / kBlock; }

constexpr std::align_val_t kLine{64};

// Term of a tile that lies `offset` words behind the beginning of its matrix.
Term at_tile(const Term& term, int64_t offset) {
  return {term.factor, term.words == nullptr ? nullptr : term.words + offset};
}

}  // namespace

bool PanelIteration::is_best() { return has_avx512_bf16() && active_isa() != Isa::amx; }

void PanelIteration::Release::operator()(uint32_t* words) const { operator delete(words, kLine); }

PanelIteration::Words PanelIteration::empty(int64_t count) {
  void* memory = operator new(static_cast<size_t>(count) * sizeof(uint32_t), kLine);
  return {std::unique_ptr<uint32_t[], Release>(static_cast<uint32_t*>(memory)), count};
}

PanelIteration::PanelIteration(int64_t rows, int64_t cols, ForEachTask for_each_task)
    : rows_(rows),
      cols_(cols),
      for_each_task_(for_each_task),
      n_panels_(panels_of(std::min(rows, cols))),
      m_panels_(panels_of(std::max(rows, cols))),
      n_stride_(n_panels_ * kTileWords),
      m_stride_(m_panels_ * kTileWords),
      by_columns_(empty(m_panels_ * n_stride_)),
      spare_(empty(m_panels_ * n_stride_)),
      by_rows_(empty(n_panels_ * m_stride_)),
      gram_(square()),
      polynomial_(square()) {}

PanelIteration::Words PanelIteration::square() const { return empty(n_panels_ * n_stride_); }

uint16_t* PanelIteration::data() { return reinterpret_cast<uint16_t*>(words(spare_)); }

void PanelIteration::run(const NewtonSchulz& settings) {
  begin();
  const auto& steps = settings.steps;
  const bool is_long = 4 * std::max(rows_, cols_) >= 5 * std::min(rows_, cols_);
  size_t i = 0;
  if (settings.pair_first && !settings.by_schatten_norm && is_long && steps.size() >= 2) {
    two_steps(steps[0], steps[1]);
    i = 2;
  }
  for (; i < steps.size(); ++i) {
    const auto [a, b, c] = steps[i];
    if (i == 0 && settings.by_schatten_norm) {
      make_gram();
      const double s = settings.norm_scale * schatten_norm(std::sqrt(square_gram()));
      apply_squared(a / s, 1 / s, b / (s * s), c / (s * s * s * s));
    } else {
      step(a, b, c);
    }
  }
  end();
}

void PanelIteration::begin() {
  const bool tall = rows_ > cols_;
  const auto pack_columns = tall ? pack_transposed_panel_avx512bf16 : pack_panel_avx512bf16;
  const auto pack_rows = tall ? pack_panel_avx512bf16 : pack_transposed_panel_avx512bf16;
  for_each_task_(m_panels_, [&](int64_t p) {
    pack_columns(data(), rows_, cols_, cols_, p, n_stride_ / kPanel,
                 words(by_columns_) + p * n_stride_);
  });
  for_each_task_(n_panels_, [&](int64_t p) {
    pack_rows(data(), rows_, cols_, cols_, p, m_stride_ / kPanel, words(by_rows_) + p * m_stride_);
  });
}

void PanelIteration::end() {
  const auto unpack = rows_ > cols_ ? unpack_transposed_panel_avx512bf16 : unpack_panel_avx512bf16;
  for_each_task_(m_panels_, [&](int64_t p) {
    unpack(words(by_columns_) + p * n_stride_, rows_, cols_, p, data());
  });
}

void PanelIteration::symmetric_product(const Words& l, const Words& r, double factor, Term x,
                                       Term y, const Words& out) const {
  // Panels of l and r have all their rows, whatever these are: n, or m for the Gram matrix.
  const int64_t stride = l.count / n_panels_, blocks = blocks_of(n_panels_);
  uint32_t* const to = words(out);
  for_each_task_(blocks * (blocks + 1) / 2, [&](int64_t t) {
    int64_t row = 0;  // task t is a block (row, t) of the triangle t ≤ row
    for (; t > row; ++row) t -= row + 1;
    alignas(64) float tiles[kBlock * kBlock * kTile];
    const int64_t i0 = row * kBlock, j0 = t * kBlock;
    const int64_t num_i = std::min(kBlock, n_panels_ - i0),
                  num_j = std::min(kBlock, n_panels_ - j0);
    multiply_panels_avx512bf16(words(l) + i0 * stride, stride, num_i, words(r) + j0 * stride,
                               stride, num_j, stride / kPanel, row == t, tiles);
    for (int64_t i = 0; i < num_i; ++i) {
      for (int64_t j = 0; j < (row == t ? i + 1 : num_j); ++j) {
        const int64_t place = (j0 + j) * n_stride_ + (i0 + i) * kTileWords;
        const int64_t mirrored = (i0 + i) * n_stride_ + (j0 + j) * kTileWords;
        store_tile_avx512bf16(tiles + (i * kBlock + j) * kTile, static_cast<float>(factor),
                              at_tile(x, place), at_tile(y, place), to + place,
                              place == mirrored ? nullptr : to + mirrored);
      }
    }
  });
}

// X ← alpha X + beta · polynomial X.
void PanelIteration::apply(double alpha, double beta, const Words& polynomial) {
  const int64_t n_blocks = blocks_of(n_panels_);
  for_each_task_(n_blocks * blocks_of(m_panels_), [&](int64_t t) {
    alignas(64) float tiles[kBlock * kBlock * kTile];
    const int64_t i0 = t % n_blocks * kBlock, j0 = t / n_blocks * kBlock;
    const int64_t num_i = std::min(kBlock, n_panels_ - i0),
                  num_j = std::min(kBlock, m_panels_ - j0);
    multiply_panels_avx512bf16(words(polynomial) + i0 * n_stride_, n_stride_, num_i,
                               words(by_columns_) + j0 * n_stride_, n_stride_, num_j,
                               n_stride_ / kPanel, false, tiles);
    for (int64_t i = 0; i < num_i; ++i) {
      for (int64_t j = 0; j < num_j; ++j) {
        const int64_t place = (j0 + j) * n_stride_ + (i0 + i) * kTileWords;
        const Term old = {static_cast<float>(alpha), words(by_columns_) + place};
        store_tile_avx512bf16(tiles + (i * kBlock + j) * kTile, static_cast<float>(beta), old, {},
                              words(spare_) + place,
                              words(by_rows_) + (i0 + i) * m_stride_ + (j0 + j) * kTileWords);
      }
    }
  });
  std::swap(by_columns_, spare_);
}

void PanelIteration::make_gram() { symmetric_product(by_rows_, by_rows_, 1, {}, {}, gram_); }

void PanelIteration::step(double a, double b, double c) {
  make_gram();
  symmetric_product(gram_, gram_, c, {static_cast<float>(b), words(gram_)}, {}, polynomial_);
  apply(a, 1, polynomial_);
}

double PanelIteration::square_gram() {
  symmetric_product(gram_, gram_, 1, {}, {}, polynomial_);
  return momentum_kernels::sum_of_squares_bf16(
      reinterpret_cast<const uint16_t*>(words(polynomial_)), 2 * polynomial_.count);
}

void PanelIteration::apply_squared(double alpha, double beta, double b, double c) {
  combine_avx512bf16(words(polynomial_), static_cast<float>(c), words(gram_), static_cast<float>(b),
                     polynomial_.count);
  apply(alpha, beta, polynomial_);
}

void PanelIteration::two_steps(const std::array<double, 3>& first,
                               const std::array<double, 3>& second) {
  if (!product_.memory) {
    product_ = square();
    next_ = square();
  }
  const auto [a1, b1, c1] = first;
  const auto [a2, b2, c2] = second;
  const auto term = [](double factor, const Words& of) {
    return Term{static_cast<float>(factor), words(of)};
  };
  make_gram();
  symmetric_product(gram_, gram_, c1, term(b1, gram_), {}, polynomial_);       // P
  symmetric_product(polynomial_, gram_, 1, term(a1, gram_), {}, product_);     // (a + P) A
  symmetric_product(polynomial_, product_, 1, term(a1, product_), {}, next_);  // A'
  symmetric_product(next_, next_, c2, term(b2, next_), {}, gram_);             // P'
  symmetric_product(gram_, polynomial_, 1, term(a1, gram_), term(a2, polynomial_), product_);
  apply(a1 * a2, 1, product_);
}

}  // namespace osp
