// What a run of the load generator is asked to do. The command line is read in options.cpp.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace mpaxos::load {

using Nanos = std::int64_t;  // of CLOCK_MONOTONIC, or a span of it

// A wrong argument, or a server that does not do its part: ends the run with one line of text.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Address {
  std::string host;
  std::string port;
};

enum class Distribution { kUniform, kZipfian, kSequential };

struct Options {
  std::string protocol = "native";  // native jpaxos echo redis zookeeper etcd
  std::string machine = "kv";       // native: how requests are encoded; kv or command
  std::vector<Address> addresses;   // connection i goes to address i modulo their number
  std::uint32_t connections = 100;
  std::uint32_t depth = 1;     // requests in flight per connection
  std::uint32_t size = 128;    // bytes of a value
  std::uint64_t keys = 1000;   // how many different ones
  double reads = 0;            // share of gets, 0 .. 1
  Distribution distribution = Distribution::kUniform;
  double theta = 0.99;         // skew of kZipfian, as in YCSB
  double rate = 0;             // requests per second of an open loop; 0: closed loop
  Nanos duration = 0;
  Nanos warm_up = 0;
  Nanos grace = 0;             // how long answers are waited for at the end
  Nanos progress = 0;          // between lines of progress; 0: none
  Nanos series = 0;            // count the answers of each such interval; 0: do not
  std::uint64_t count = 0;     // end after so many requests instead of after `duration`
  std::uint64_t seed = 1;
  std::uint32_t threads = 1;
  bool create = false;         // zookeeper: create the keys instead of setting them
};

// Throws Failure naming the argument.
Options parse_options(const std::vector<std::string>& words);

}  // namespace mpaxos::load
