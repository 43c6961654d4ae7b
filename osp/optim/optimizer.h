// Optimizers behind one interface (state as named tensors, one step over banks), and the row by
// which each of them describes itself to routing, benches and estimates of memory.
//
// Tested by optimizers_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

struct OptimConfig;  // osp/optim/config.h, which contains the options of every optimizer
struct OptimizerRow;

// Values that change from step to step; everything else is fixed at construction.
struct StepValues {
  int64_t step = 0;         // 1 for the first update
  double lr = 0;            // scheduled rate times the group's scale
  double momentum = 0.95;   // scheduled (Muon's beta)
  double weight_decay = 0;  // scheduled, decoupled: w -= lr · weight_decay · w
  bool measure = false;     // make last_update_norm() valid (costs a pass over Adam's weights)
};

// One optimizer over some banks of a store. Reads bank.gradient, writes bank.master; never touches
// the compute copies. Deterministic for a given number of threads and, unless docs/numerics.md says
// otherwise, for any.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Tap that must watch the forward and backward passes of the coming step; null: none. To be
  // called once before the passes. It forgets the passes of a step that was not followed
  // by an update.
  virtual Tap* watch_step() { return nullptr; }
  virtual void step(const StepValues& values) = 0;
  // Tensors to be stored in a checkpoint, in a fixed order. They alias the state: loading
  // is copy_().
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const = 0;
  // Frobenius norm of the weights' change (decay included) in the last step that had `measure`.
  virtual double last_update_norm() const = 0;
};

// Parameters that are stepped together and whose gradient norm is taken together.
struct OptimizerGroup {
  std::string name = "";  // that of the optimizer, or "muon-heads", "adam-gain", …
  const OptimizerRow* optimizer = nullptr;
  double lr_scale = 1;
  bool decays = true;
  double clip = 0;         // largest norm of the group's gradient; 0: no clipping
  int64_t split_rows = 0;  // Muon: orthogonalise blocks of so many rows; 0: whole matrices
  // Muon: threads never share a matrix, so that its bits do not depend on how many there are.
  bool thread_per_matrix = false;
};

// Base class of optimizers with state: the list of state tensors, the norm of the last update, and
// the check that every bank has a gradient.
class StatefulOptimizer : public Optimizer {
 public:
  std::vector<std::pair<std::string, at::Tensor>> state() const final { return state_; }
  double last_update_norm() const final { return last_update_norm_; }

 protected:
  StatefulOptimizer(const OptimizerGroup& group, const std::vector<Bank*>& banks);
  // Adds the tensor to the state as GROUP.BANK.WHAT and returns it.
  at::Tensor keep(const Bank& bank, const char* what, const at::Tensor& tensor);
  // Adds a count that begins at zero, int64 [1], as GROUP.WHAT.
  at::Tensor keep_count(const char* what);
  // To be called at the end of step() with the sum of the squared changes of all weights.
  void set_squared_update(double squared);

 private:
  std::string group_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
};

// Parameters that the recipe's `optim.name = NAME` gives to the optimizer NAME; Adam trains the
// others, except gains (optim.gain_rule).
enum class Coverage {
  none,           // NAME is no value of optim.name, only of optim.routes
  linear_layers,  // matrices of the blocks and of EmbProj
  matrices,       // also the embedding and the head
  everything,
};

// Matrices of the blocks and of EmbProj: an input is multiplied by them in every forward pass.
bool is_linear_layer(ParameterKind kind);

// Parameters that an optimizer can train, and the words of the error for the others.
struct Trainable {
  bool (*includes)(const ParameterSpec& spec);
  const char* needs = "";    // "a matrix"
  const char* instead = "";  // names of optimizers that train the others
};

bool any_parameter(const ParameterSpec& spec);
bool is_matrix(const ParameterSpec& spec);
inline constexpr Trainable kAnyParameter{.includes = any_parameter};
inline constexpr Trainable kMatrices{
    .includes = is_matrix, .needs = "a matrix", .instead = "adam, adafactor, gain or frozen"};

// Rate, decay and clipping of a group, from the recipe.
struct GroupSettings {
  double lr_scale = 1;
  bool decays = true;
  double clip = 0;
};

// The settings that recipes call preconditioned: preconditioned_lr_scale, decay_preconditioned,
// clip_preconditioned; gains follow decay_gain.
GroupSettings preconditioned_settings(const OptimConfig& config, ParameterKind kind);

// OptimizerRow::period of those that renew something every optim.precondition_every steps.
int64_t precondition_period(const OptimConfig& config);

// Defaults of a row's functions.
double scale_one(int64_t rows, int64_t cols, const OptimizerGroup& group,
                 const OptimConfig& config);
double elementwise_flops(int64_t rows, int64_t cols, const OptimizerGroup& group,
                         const OptimConfig& config);
int64_t every_step(const OptimConfig& config);
int64_t unsplit(const ParameterSpec& spec, const OptimConfig& config, int64_t head_size);
void accept_options(const OptimConfig& config);

// How the ranks of a run may share a group's banks so that every matrix is updated with the bits
// that one rank gives it.
enum class Division {
  none,      // not at all: one rank must have everything
  banks,     // whole banks
  matrices,  // any matrices of a bank: each is updated by itself
  rows,      // any rows, in runs of a multiple of 16: each number is updated by itself
};

// Everything that the rest of the program knows about one optimizer. Each is defined in the
// optimizer's own file and listed in osp/optim/optimizers.cpp. `rows` and `cols` are those of the
// parameter in its bank, where a vector or scalar is one row.
struct OptimizerRow {
  const char* name;          // in recipes
  const char* title = name;  // in messages
  Coverage coverage = Coverage::none;
  // Under optim.gain_rule = "auto": gains follow the gain rule, not the optimizer of all vectors.
  bool with_gain_rule = false;
  Trainable trainable = kAnyParameter;
  // `banks` must outlive the optimizer.
  std::unique_ptr<Optimizer> (*make)(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config);
  // Bytes of the state of one parameter, without counts of steps and the like.
  double (*state_bytes)(int64_t rows, int64_t cols, const OptimizerGroup& group,
                        const OptimConfig& config);
  // The factor between the rate and the root mean square (or norm) that the update has by itself.
  double (*update_scale)(int64_t rows, int64_t cols, const OptimizerGroup& group,
                         const OptimConfig& config) = scale_one;
  // Operations of an update: about a hundred for each scalar, except where products count.
  double (*update_flops)(int64_t rows, int64_t cols, const OptimizerGroup& group,
                         const OptimConfig& config) = elementwise_flops;
  // Settings of the group for parameters of that kind.
  GroupSettings (*settings)(const OptimConfig& config,
                            ParameterKind kind) = preconditioned_settings;
  // True if watch_step() returns a tap: forward and backward passes then take longer.
  bool watches_passes = false;
  // Steps between two that renew something that the other steps only use; 1: all steps are alike.
  int64_t (*period)(const OptimConfig& config) = every_step;
  // OptimizerGroup::split_rows for a parameter; those with split rows get a group of their own.
  int64_t (*split_rows)(const ParameterSpec& spec, const OptimConfig& config,
                        int64_t head_size) = unsplit;
  Division division = Division::none;
  // Error(usage) for options that contradict each other, whoever trains.
  void (*check_options)(const OptimConfig& config) = accept_options;
};

}  // namespace osp
