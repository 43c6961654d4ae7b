// The table of `osp quantize --report`: a row per method, a column per model, several seeds as mean
// and standard deviation.
//
// Tested by quantize_method_test.cpp and tests/python/test_quantize.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// One model quantized with one method and one seed.
struct TableEntry {
  std::string model, method;
  double original_perplexity = 0.0;  // at 16-16-16
  double perplexity = 0.0;
  double divergence = 0.0;   // Kullback–Leibler, nats per token
  double same_choice = 0.0;  // share of equal most likely tokens
  int64_t tokens = 0;        // scored
  int64_t window = 0;        // tokens
  double bytes = 0.0;        // of text that the scored tokens stand for; 0: not known
  int64_t vocabulary = 0;
  std::string refused = {};  // why the model cannot be quantized by the method; "": it was
};

struct Table {
  std::string bits;
  std::vector<TableEntry> entries;
};

// Mean and, of two values and more, the deviation with count − 1.
struct Spread {
  double mean = 0.0;
  double deviation = 0.0;
  int64_t count = 0;
};
Spread spread_of(const std::vector<double>& values);

// log₂ perplexity · tokens / bytes, NaN where the bytes are not known.
double bits_per_byte(double perplexity, const TableEntry& entry);

Json table_entry_json(const TableEntry& entry);
// The measurements of table_entry_json(); `where` names them in Error(damaged).
TableEntry parse_table_entry(const Json& measured, const std::string& where);

// A Markdown table of perplexity with the divergence in brackets, and below it why the cells that
// say "refused" do. Where the models' vocabularies
// differ, their perplexities cannot be compared, and a second table has bits per byte.
std::string table_text(const Table& table);

}  // namespace osp
