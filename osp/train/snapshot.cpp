#include "osp/train/snapshot.h"

#include <algorithm>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/range_writer.h"
#include "osp/formats/safetensors_layout.h"
#include "osp/model/model_description.h"
#include "osp/model/weight_files.h"
#include "osp/train/checkpoint.h"
#include "osp/train/exchange.h"

namespace osp {
namespace {

struct DtypeName {
  at::ScalarType type;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{at::kFloat, "F32"},  {at::kBFloat16, "BF16"}, {at::kHalf, "F16"},
                                 {at::kDouble, "F64"}, {at::kLong, "I64"},      {at::kInt, "I32"},
                                 {at::kChar, "I8"}};

at::Tensor on_cpu(const at::Tensor& t, bool copy) {
  return t.is_cpu() && copy ? t.clone() : t.cpu();  // cpu() of a CPU tensor is that tensor
}

void add_range(TensorFile& file, uint64_t offset, const at::Tensor& data) {
  if (data.numel() > 0) file.ranges.push_back({offset, data.contiguous()});
}

TensorFile empty_file(const std::string& name, const SafetensorsLayout& layout) {
  return {.name = name, .head = layout.head, .bytes = layout.file_bytes, .ranges = {}};
}

// model.safetensors: the masters that this rank owns.
TensorFile weights_file(const TrainState& state, bool copy) {
  std::vector<TensorEntry> entries;
  std::vector<size_t> entry_of(state.store.specs.size());
  for (const StoredTensor& stored : written_tensors(state.store)) {
    OSP_CHECK(
        stored.parameters.size() == 1 && stored.order == StoredOrder::plain && stored.offset == 0,
        "{} is not stored as it is trained", stored.name);
    entry_of[static_cast<size_t>(stored.parameters[0])] = entries.size();
    entries.push_back({stored.name, "F32", stored.shape, {}});
  }
  const SafetensorsLayout layout = safetensors_layout(kWeightsFile, entries, written_metadata());
  TensorFile file = empty_file(kWeightsFile, layout);
  for (size_t b = 0; b < state.store.banks.size(); ++b) {
    const BankSlice own = state.owners.slice(b, state.ranks.rank());
    if (own.count == 0) continue;
    const at::Tensor masters = on_cpu(state.owned.banks[b].master, copy);
    const std::vector<int64_t>& members = state.store.banks[b].members;
    const int64_t units = state.owners.units(b) / static_cast<int64_t>(members.size());
    for (int64_t first = own.first; first < own.first + own.count;) {
      // The units of one parameter.
      const auto member = static_cast<size_t>(first / units);
      const int64_t count = std::min((first / units + 1) * units, own.first + own.count) - first;
      const at::Tensor part = masters.narrow(0, first - own.first, count);
      const size_t before = part[0].nbytes() * static_cast<size_t>(first % units);
      const auto parameter = static_cast<size_t>(members[member]);
      add_range(file, layout.offsets[entry_of[parameter]] + before, part);
      first += count;
    }
  }
  return file;
}

// optimizer.safetensors: the state that this rank keeps.
TensorFile optimizer_file(const TrainState& state, bool copy) {
  const std::vector<WholeState> whole = whole_optimizer_state(state);
  std::vector<TensorEntry> entries;
  entries.reserve(whole.size());
  for (const WholeState& one : whole) {
    entries.push_back({one.name, dtype_name(one.own.scalar_type()), one.shape, {}});
  }
  const SafetensorsLayout layout = safetensors_layout(kOptimizerFile, entries);
  TensorFile file = empty_file(kOptimizerFile, layout);
  for (size_t i = 0; i < whole.size(); ++i) {
    const WholeState& one = whole[i];
    if (!one.is_written_here) continue;
    add_range(file, layout.offsets[i] + one.first_byte, on_cpu(one.own, copy));
  }
  return file;
}

}  // namespace

const char* dtype_name(at::ScalarType type) {
  for (const DtypeName& entry : kDtypes) {
    if (entry.type == type) return entry.name;
  }
  OSP_CHECK(false, "optimizer state of type {}", at::toString(type));
}

Snapshot take_snapshot(const TrainState& state, uint64_t metrics_bytes, bool copy) {
  Snapshot snapshot{.step = state.step,
                    .healthy = state.guard.consecutive() == 0,
                    .model = state.store.config,
                    .files = {},
                    .trainer = {},
                    .recipe = {}};
  snapshot.files.push_back(weights_file(state, copy));
  snapshot.files.push_back(optimizer_file(state, copy));
  snapshot.trainer = {{"step", state.step},
                      {"tokens", state.step * state.recipe.train.batch_tokens},
                      {"watched", state.watched},
                      {"seconds", state.seconds},
                      {"metrics_bytes", metrics_bytes},
                      {"guard", state.guard.to_json()}};
  snapshot.recipe = recipe_json(state.recipe);
  return snapshot;
}

void write_frame(const Snapshot& snapshot, const std::string& folder,
                 const std::string& tokenizer_json) {
  for (const TensorFile& tensors : snapshot.files) {
    FileWriter file(folder + "/" + tensors.name);
    file.write(tensors.head.data(), tensors.head.size());
    file.close(/*sync=*/false);  // write_ranges() does
  }
  write_file_durable(folder + "/" + kTrainerFile, json_text(snapshot.trainer, 1) + "\n");
  write_file_durable(folder + "/" + kRecipeFile, json_text(snapshot.recipe, 1) + "\n");
  save_model_description(snapshot.model, folder, tokenizer_json);
}

void write_ranges(const Snapshot& snapshot, const std::string& folder) {
  for (const TensorFile& tensors : snapshot.files) {
    RangeWriter file(folder + "/" + tensors.name);
    for (const FileRange& range : tensors.ranges) {
      file.write(range.offset, range.data.const_data_ptr(), range.data.nbytes());
    }
    file.close();
  }
}

}  // namespace osp
