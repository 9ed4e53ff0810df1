#include "options.hpp"

#include <charconv>
#include <functional>
#include <map>

namespace mpaxos::load {
namespace {

template <typename T>
T number(const std::string& name, const std::string& text, T low, T high) {
  T value{};
  const auto* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || !(value >= low && value <= high)) {
    throw Failure("--" + name + " " + text + ": a number from " + std::to_string(low) + " to " +
                  std::to_string(high));
  }
  return value;
}

Nanos seconds(const std::string& name, const std::string& text) {
  return static_cast<Nanos>(number<double>(name, text, 0, 1e6) * 1e9);
}

std::string one_of(const std::string& name, const std::string& text,
                   std::initializer_list<const char*> known) {
  std::string all;
  for (const auto* word : known) {
    if (text == word) return text;
    all += std::string(" ") + word;
  }
  throw Failure("--" + name + " " + text + ": one of" + all);
}

Address address(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) {
    throw Failure("--address " + text + ": write host:port");
  }
  auto host = text.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, text.substr(colon + 1)};
}

Distribution distribution(const std::string& text) {
  one_of("distribution", text, {"uniform", "zipfian", "sequential"});
  if (text == "zipfian") return Distribution::kZipfian;
  return text == "uniform" ? Distribution::kUniform : Distribution::kSequential;
}

void check(const Options& options) {
  if (options.addresses.empty()) throw Failure("give --address host:port, once or more often");
  if (options.threads > options.connections) {
    throw Failure("--threads: at most one per connection");
  }
  if (options.protocol == "jpaxos" && options.depth > 1) {
    throw Failure("--depth: a JPaxos client has one request in flight");
  }
  if (options.count > 0 && options.rate > 0) {
    throw Failure("--count belongs to a closed loop, --rate to an open one");
  }
  if (options.count == 0 && options.duration <= 0) throw Failure("give --duration or --count");
}

}  // namespace

Options parse_options(const std::vector<std::string>& words) {
  Options o;
  o.grace = 10'000'000'000;
  using Set = std::function<void(const std::string&, const std::string&)>;
  const std::map<std::string, Set> known = {
      {"protocol",
       [&](auto& n, auto& v) {
         o.protocol = one_of(n, v, {"native", "jpaxos", "echo", "redis", "zookeeper", "etcd"});
       }},
      {"machine", [&](auto& n, auto& v) { o.machine = one_of(n, v, {"kv", "command"}); }},
      {"address", [&](auto&, auto& v) { o.addresses.push_back(address(v)); }},
      {"connections",
       [&](auto& n, auto& v) { o.connections = number<std::uint32_t>(n, v, 1, 100'000); }},
      {"depth", [&](auto& n, auto& v) { o.depth = number<std::uint32_t>(n, v, 1, 1024); }},
      {"size", [&](auto& n, auto& v) { o.size = number<std::uint32_t>(n, v, 1, 1U << 30); }},
      {"keys", [&](auto& n, auto& v) { o.keys = number<std::uint64_t>(n, v, 1, 1ULL << 40); }},
      {"reads", [&](auto& n, auto& v) { o.reads = number<double>(n, v, 0, 1); }},
      {"distribution", [&](auto&, auto& v) { o.distribution = distribution(v); }},
      // The generator of skewed numbers divides by 1 - theta.
      {"theta", [&](auto& n, auto& v) { o.theta = number<double>(n, v, 0.01, 0.999); }},
      {"rate", [&](auto& n, auto& v) { o.rate = number<double>(n, v, 0, 1e9); }},
      {"duration", [&](auto& n, auto& v) { o.duration = seconds(n, v); }},
      {"warm-up", [&](auto& n, auto& v) { o.warm_up = seconds(n, v); }},
      {"grace", [&](auto& n, auto& v) { o.grace = seconds(n, v); }},
      {"progress", [&](auto& n, auto& v) { o.progress = seconds(n, v); }},
      {"series", [&](auto& n, auto& v) { o.series = seconds(n, v); }},
      {"count", [&](auto& n, auto& v) { o.count = number<std::uint64_t>(n, v, 0, 1ULL << 40); }},
      {"seed", [&](auto& n, auto& v) { o.seed = number<std::uint64_t>(n, v, 0, ~0ULL); }},
      {"threads", [&](auto& n, auto& v) { o.threads = number<std::uint32_t>(n, v, 1, 256); }},
      {"create", [&](auto& n, auto& v) { o.create = number<std::uint32_t>(n, v, 0, 1) == 1; }},
  };
  for (std::size_t at = 0; at < words.size(); at += 2) {
    const auto name = words[at].starts_with("--") ? words[at].substr(2) : std::string();
    const auto found = known.find(name);
    if (found == known.end()) throw Failure("unknown argument " + words[at]);
    if (at + 1 == words.size()) throw Failure(words[at] + " needs a value");
    found->second(name, words[at + 1]);
  }
  check(o);
  return o;
}

}  // namespace mpaxos::load
