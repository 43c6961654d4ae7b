// The tables of a quantized model, embedding and head: how they are stored beside the
// quantized layers.
//
//   fp32  as they are
//   bf16  rounded to nearest even: the 16 bits of the paper's models
//   int8  symmetric integers (grid.h) with an fp16 scale for 32 columns (for a row, where 32 does
//         not divide the width)
//   int4  the same with 4 bits, the scale by the clipping search
//
// Integer tables are those of GGUF's Q8_0 and Q4_0, which hold them exactly.
//
// Tested by tables_test.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "osp/model/parameters.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

enum class TableType { fp32, bf16, int8, int4 };

// By the names above; Error(usage) for others.
TableType parse_table_type(const std::string& text);
std::string table_type_name(TableType type);

// True for embedding and head.
bool is_table(const ParameterSpec& spec);
bool has_integers(TableType type);
// The grid of an integer table.
WeightGrid table_grid(TableType type, int64_t columns);

// Rounds the tables of a store in place (sync_compute is the caller's) and returns the codes of
// integer ones by the parameter's name. Error(damaged) for numbers that are not finite,
// Error(unsupported) for scales beyond fp16.
QuantizedWeights round_tables(ParameterStore& store, TableType type);

}  // namespace osp
