// Options of the optimizers and of what they schedule: the recipe's sections [optim] and
// [schedule].
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/fields.h"

namespace osp {

// Section [optim]. The defaults are the paper's where it gives a value; Adam's betas and eps, the
// clipping norm and the learning rate for small models are chosen by us.
struct OptimConfig {
  std::string name = "osp";
  std::string preset = "osp-paper";
  double lr = 3e-3;
  double adam_lr_scale = 1.0;
  double muon_lr_scale = 1.0;
  double gain_lr_scale = 1.0;
  double weight_decay = 0.01;
  bool decay_adam = true;
  bool decay_muon = true;
  bool decay_gain = true;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double momentum = 0.95;
  bool nesterov = true;
  int64_t momentum_bits = 32;
  int64_t ns_steps = 5;
  std::string coefficients = "preset";
  std::string normalisation = "preset";
  bool renormalize = false;
  bool per_head = false;
  std::string update_scale = "match-adam";
  std::string gain_rule = "auto";
  double clip_adam = 1.0;
  double clip_muon = 0.0;
  double clip_gain = 0.0;
  double preconditioned_lr_scale = 1.0;
  bool decay_preconditioned = true;
  double clip_preconditioned = 1.0;
  double adafactor_decay = 0.8;
  double adafactor_clip = 1.0;
  double adafactor_momentum = 0.0;
  bool adafactor_relative_step = false;
  double precondition_beta = 0.95;
  int64_t precondition_every = 10;
  int64_t shampoo_block = 1024;
  double shampoo_eps = 1e-12;
  int64_t soap_largest_basis = 10000;
  double kfac_damping = 1e-3;
  double kfac_clip = 1.0;
  int64_t kfac_gather_every = 1;
  std::string routes = "";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("name", self.name,
          Choices{{"osp", "adam", "muon", "adafactor", "shampoo", "soap", "kfac", "routes"}},
          "osp: Muon on hidden matrices and EmbProj, Adam on the rest; shampoo, soap, kfac: "
          "likewise; "
          "muon: Muon on every matrix; adam, adafactor: that on everything; routes: only what "
          "`routes` says");
    visit("preset", self.preset, Choices{{"osp-paper", "tight"}},
          "Newton-Schulz settings: osp-paper (jordan, frobenius) or tight (you, s8)");
    visit("lr", self.lr, Range{0, 10}, "peak learning rate of every group");
    visit("adam_lr_scale", self.adam_lr_scale, Range{0, 1e6}, "times lr for Adam's groups");
    visit("muon_lr_scale", self.muon_lr_scale, Range{0, 1e6}, "times lr for Muon's groups");
    visit("gain_lr_scale", self.gain_lr_scale, Range{0, 1e6},
          "times lr for gains under their rule");
    visit("weight_decay", self.weight_decay, Range{0, 10},
          "decoupled: w loses lr * weight_decay * w a step");
    visit("decay_adam", self.decay_adam, "weight decay on Adam's groups");
    visit("decay_muon", self.decay_muon, "weight decay on Muon's groups");
    visit("decay_gain", self.decay_gain, "weight decay on gains, whatever their rule");
    visit("beta1", self.beta1, Range{0, 1 - 1e-9}, "Adam: decay of the mean gradient");
    visit("beta2", self.beta2, Range{0, 1 - 1e-9}, "Adam: decay of the mean squared gradient");
    visit("eps", self.eps, Range{0, 1}, "Adam: added to the root");
    visit("momentum", self.momentum, Range{0, 1 - 1e-9}, "Muon and gains: decay of the momentum");
    visit("nesterov", self.nesterov, "Muon and gains: look ahead by one step of momentum");
    visit("momentum_bits", self.momentum_bits, Range{8, 32},
          "Muon: bits in which the momentum of matrices is kept, 32 or 8 (codes with a scale per "
          "256 numbers)");
    visit("ns_steps", self.ns_steps, Range{1, 5}, "Muon: Newton-Schulz iterations");
    visit("coefficients", self.coefficients, Choices{{"preset", "jordan", "you", "polar-express"}},
          "Muon: coefficients of the Newton-Schulz iteration");
    visit("normalisation", self.normalisation, Choices{{"preset", "frobenius", "s8"}},
          "Muon: divide by the Frobenius norm or by the fourth root of the norm of (X Xt)^2");
    visit(
        "renormalize", self.renormalize,
        "Muon: rescale each orthogonalised matrix to a Frobenius norm of sqrt(min(rows, columns))");
    visit("per_head", self.per_head,
          "Muon: orthogonalise query, key and value projections head by head");
    visit("update_scale", self.update_scale, Choices{{"match-adam", "original", "spectral"}},
          "Muon: 0.2 sqrt(max(rows, columns)), sqrt(max(1, rows/columns)) or sqrt(rows/columns)");
    visit(
        "gain_rule", self.gain_rule, Choices{{"auto", "reference", "adam", "frozen"}},
        "norm gains: reference (normalised momentum), adam, frozen; auto: reference under osp and "
        "muon, else the optimizer of all vectors");
    visit("clip_adam", self.clip_adam, Range{0, 1e9},
          "largest gradient norm over Adam's groups; 0: no clipping");
    visit("clip_muon", self.clip_muon, Range{0, 1e9},
          "largest gradient norm over Muon's groups; 0: no clipping");
    visit("clip_gain", self.clip_gain, Range{0, 1e9},
          "largest gradient norm over gains under their rule; 0: no clipping");
    visit("preconditioned_lr_scale", self.preconditioned_lr_scale, Range{0, 1e6},
          "times lr for the groups of adafactor, shampoo, soap and kfac");
    visit(
        "decay_preconditioned", self.decay_preconditioned,
        "weight decay on the groups of adafactor, shampoo, soap and kfac; gains follow decay_gain");
    visit("clip_preconditioned", self.clip_preconditioned, Range{0, 1e9},
          "largest gradient norm over each group of adafactor, shampoo, soap and kfac; 0: no "
          "clipping");
    visit("adafactor_decay", self.adafactor_decay, Range{0, 1},
          "Adafactor: second moments decay by 1 - t^-adafactor_decay at step t");
    visit("adafactor_clip", self.adafactor_clip, Range{1e-9, 1e9},
          "Adafactor: largest root mean square of a matrix's update before the rate");
    visit("adafactor_momentum", self.adafactor_momentum, Range{0, 1 - 1e-9},
          "Adafactor: decay of the mean update; 0: none is kept");
    visit("adafactor_relative_step", self.adafactor_relative_step,
          "Adafactor: the rate of a matrix is times max(1e-3, root mean square of its weights)");
    visit("precondition_beta", self.precondition_beta, Range{0, 1 - 1e-9},
          "Shampoo, SOAP, K-FAC: decay of the factors");
    visit(
        "precondition_every", self.precondition_every, Range{1, 1e9},
        "steps between two inverse roots (Shampoo), turns of the bases (SOAP) or inverses (K-FAC)");
    visit("shampoo_block", self.shampoo_block, Range{1, 1e6},
          "Shampoo: larger matrices are cut into blocks of at most so many rows and columns");
    visit("shampoo_eps", self.shampoo_eps, Range{0, 1},
          "Shampoo: added to the eigenvalues of the factors");
    visit("soap_largest_basis", self.soap_largest_basis, Range{1, 1e6},
          "SOAP: a side of a matrix that is longer keeps its own coordinates");
    visit("kfac_damping", self.kfac_damping, Range{0, 1e6},
          "K-FAC: added to the Fisher information, its root split between the two factors");
    visit(
        "kfac_clip", self.kfac_clip, Range{0, 1e9},
        "K-FAC: largest product of direction and gradient, to which longer ones are cut; 0: none");
    visit("kfac_gather_every", self.kfac_gather_every, Range{1, 1e9},
          "K-FAC: steps between two that are averaged into the factors");
    visit("routes", self.routes,
          "exceptions by name, \"pattern=optimizer; ...\" where * is any run of letters and the "
          "optimizer muon, adam, adafactor, shampoo, soap, kfac, gain or frozen");
  }
};

// Section [schedule]: how learning rate, momentum and weight decay change over the run.
struct ScheduleConfig {
  std::string kind = "wsd";
  int64_t warmup_steps = 100;
  double final_lr = 0.0;
  std::string decay_shape = "linear";
  double decay_fraction = 0.2;
  int64_t decay_steps = 0;
  double momentum_start = 0.85;
  int64_t momentum_warmup_steps = 0;
  std::string weight_decay_kind = "constant";
  double weight_decay_final = 0.0;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("kind", self.kind, Choices{{"constant", "linear", "cosine", "wsd"}},
          "learning rate after warm-up: constant, falling over the whole run, or warm-up, stable, "
          "decay");
    visit("warmup_steps", self.warmup_steps, Range{0, 1e9}, "steps of linear warm-up from zero");
    visit("final_lr", self.final_lr, Range{0, 1}, "fraction of the peak that remains at the end");
    visit("decay_shape", self.decay_shape, Choices{{"linear", "cosine", "1-sqrt"}},
          "wsd: curve of the last phase");
    visit("decay_fraction", self.decay_fraction, Range{0, 1}, "wsd: decay as a share of all steps");
    visit("decay_steps", self.decay_steps, Range{0, 1e9},
          "wsd: decay in steps; 0: by decay_fraction");
    visit("momentum_start", self.momentum_start, Range{0, 1 - 1e-9},
          "momentum at the first step, if momentum_warmup_steps is set");
    visit("momentum_warmup_steps", self.momentum_warmup_steps, Range{0, 1e9},
          "steps over which momentum grows linearly to optim.momentum; 0: constant");
    visit("weight_decay_kind", self.weight_decay_kind, Choices{{"constant", "linear", "cosine"}},
          "weight decay over the run");
    visit("weight_decay_final", self.weight_decay_final, Range{0, 1},
          "fraction of optim.weight_decay at the end, unless constant");
  }
};

}  // namespace osp
