// Options of the optimizers and of what they schedule: the recipe's sections
// [optim] and [schedule].
//
// Tested by optimizers_test.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/fields.h"
#include "osp/optim/adafactor.h"
#include "osp/optim/adamw.h"
#include "osp/optim/gain_rule.h"
#include "osp/optim/kfac.h"
#include "osp/optim/muon.h"
#include "osp/optim/shampoo.h"
#include "osp/optim/soap.h"

namespace osp {

// Values of optim.name and sentences that list names, from the table (osp/optim/optimizers.cpp).
Choices optimizer_choices();
std::string optimizer_choices_help();
std::string routes_help();
std::string preconditioned_names();  // "adafactor, shampoo, …"

// Section [optim]: what concerns several optimizers, and the options of each, which its header
// describes. All keys of the section are in one level; recipe.json has them in the order of
// fields(). The defaults are the paper's where it gives a value; Adam's betas and eps, the clipping
// norm and the learning rate for small models are chosen by us.
struct OptimConfig {
  std::string name = "osp";
  double lr = 3e-3;
  // Groups of Adam, Muon, the gain rule, and of the preconditioned ones (below).
  double adam_lr_scale = 1.0;
  double muon_lr_scale = 1.0;
  double gain_lr_scale = 1.0;
  double weight_decay = 0.01;
  bool decay_adam = true;
  bool decay_muon = true;
  bool decay_gain = true;
  AdamOptions adam = {};
  double momentum = 0.95;
  bool nesterov = true;
  MuonOptions muon = {};
  GainOptions gain = {};
  double clip_adam = 1.0;
  double clip_muon = 0.0;
  double clip_gain = 0.0;
  double preconditioned_lr_scale = 1.0;
  bool decay_preconditioned = true;
  double clip_preconditioned = 1.0;
  AdafactorOptions adafactor = {};
  double precondition_beta = 0.95;
  int64_t precondition_every = 10;
  ShampooOptions shampoo = {};
  SoapOptions soap = {};
  KfacOptions kfac = {};
  std::string routes = "";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("name", self.name, optimizer_choices(), optimizer_choices_help().c_str());
    NewtonSchulzOptions::preset_field(visit, self.muon.newton_schulz);
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
    AdamOptions::fields(visit, self.adam);
    visit("momentum", self.momentum, Range{0, 1 - 1e-9}, "Muon and gains: decay of the momentum");
    visit("nesterov", self.nesterov, "Muon and gains: look ahead by one step of momentum");
    MuonOptions::fields(visit, self.muon);
    GainOptions::fields(visit, self.gain);
    visit("clip_adam", self.clip_adam, Range{0, 1e9},
          "largest gradient norm over Adam's groups; 0: no clipping");
    visit("clip_muon", self.clip_muon, Range{0, 1e9},
          "largest gradient norm over Muon's groups; 0: no clipping");
    visit("clip_gain", self.clip_gain, Range{0, 1e9},
          "largest gradient norm over gains under their rule; 0: no clipping");
    visit("preconditioned_lr_scale", self.preconditioned_lr_scale, Range{0, 1e6},
          ("times lr for the groups of " + preconditioned_names()).c_str());
    visit("decay_preconditioned", self.decay_preconditioned,
          ("weight decay on the groups of " + preconditioned_names() + "; gains follow decay_gain")
              .c_str());
    visit(
        "clip_preconditioned", self.clip_preconditioned, Range{0, 1e9},
        ("largest gradient norm over each group of " + preconditioned_names() + "; 0: no clipping")
            .c_str());
    AdafactorOptions::fields(visit, self.adafactor);
    visit("precondition_beta", self.precondition_beta, Range{0, 1 - 1e-9},
          "Shampoo, SOAP, K-FAC: decay of the factors");
    visit(
        "precondition_every", self.precondition_every, Range{1, 1e9},
        "steps between two inverse roots (Shampoo), turns of the bases (SOAP) or inverses (K-FAC)");
    ShampooOptions::fields(visit, self.shampoo);
    SoapOptions::fields(visit, self.soap);
    KfacOptions::fields(visit, self.kfac);
    visit("routes", self.routes, routes_help().c_str());
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
