#include "osp/quant/tables.h"

#include <array>
#include <utility>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr int64_t kTableGroup = 32;
constexpr std::array<std::pair<const char*, TableType>, 4> kTableTypes = {{
    {"fp32", TableType::fp32},
    {"bf16", TableType::bf16},
    {"int8", TableType::int8},
    {"int4", TableType::int4},
}};

}  // namespace

TableType parse_table_type(const std::string& text) {
  for (const auto& [name, type] : kTableTypes) {
    if (text == name) return type;
  }
  fail(ErrorCode::usage, "--tables {}: expected fp32, bf16, int8 or int4", text);
}

std::string table_type_name(TableType type) {
  for (const auto& [name, known] : kTableTypes) {
    if (known == type) return name;
  }
  OSP_CHECK(false, "unknown type of tables {}", static_cast<int>(type));
}

bool is_table(const ParameterSpec& spec) {
  return spec.kind != ParameterKind::bias &&
         (spec.role == ParameterRole::embedding || spec.role == ParameterRole::head);
}

bool has_integers(TableType type) { return type == TableType::int8 || type == TableType::int4; }

WeightGrid table_grid(TableType type, int64_t columns) {
  OSP_CHECK(has_integers(type), "{} tables have no grid", table_type_name(type));
  return {.bits = type == TableType::int8 ? 8 : 4,
          .group = columns % kTableGroup == 0 ? kTableGroup : 0,
          .symmetric = true,
          .clipping_search = type == TableType::int4,
          .fp16_scales = true};
}

QuantizedWeights round_tables(ParameterStore& store, TableType type) {
  QuantizedWeights codes;
  if (type == TableType::fp32) return codes;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    if (!is_table(spec)) continue;
    at::Tensor table = store.master(static_cast<int64_t>(i));
    if (type == TableType::bf16) {
      table.copy_(table.to(at::kBFloat16));
      continue;
    }
    codes[spec.name] = round_to_nearest(table, table_grid(type, table.size(-1)), spec.name);
    table.copy_(codes[spec.name].dequantized());
  }
  return codes;
}

}  // namespace osp
