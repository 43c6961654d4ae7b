#include "osp/base/provenance.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "osp/base/version.h"

namespace osp {
namespace {

TEST(ShellWord, QuotesOnlyWhatAShellWouldChange) {
  EXPECT_EQ(shell_word("runs/demo-1/osp.json"), "runs/demo-1/osp.json");
  EXPECT_EQ(shell_word("adam=Adam, same rate"), "'adam=Adam, same rate'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(ProcessCommand, BeginsWithTheProgramsName) {
  const std::string command = process_command();
  EXPECT_TRUE(command.starts_with("osp_base_test")) << command;
}

TEST(MachineText, TellsMakesOfOneNameApartWhereTheSystemDoes) {
  std::ifstream file("/proc/cpuinfo");
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  const bool numbered = all.find("cpu family") != std::string::npos;
  EXPECT_EQ(machine_text().find(" (family ") != std::string::npos, numbered) << machine_text();
  EXPECT_EQ(machine_text().find(", model ") != std::string::npos, numbered) << machine_text();
}

TEST(MachineText, NamesThreadsAndSystem) {
  EXPECT_NE(machine_text().find(" threads, Linux "), std::string::npos) << machine_text();
}

TEST(RecordProvenance, AddsVersionCommandAndMachine) {
  Json result = {{"perplexity", 12.5}};
  record_provenance(result);
  EXPECT_EQ(result["perplexity"], 12.5);
  EXPECT_EQ(result["version"], kVersion);
  EXPECT_EQ(result["command"], process_command());
  EXPECT_EQ(result["machine"], machine_text());
}

}  // namespace
}  // namespace osp
