// mpaxos-load: asks servers for what the command line says and prints what it saw as JSON, one
// object per line: {"event": "ready" | "measure" | "progress" | "result" | "failure", ...}. It is
// driven by mpaxos.bench, which knows what the numbers mean; times are in nanoseconds.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>

#include "worker.hpp"

namespace mpaxos::load {
namespace {

volatile std::sig_atomic_t g_interrupted = 0;
volatile std::sig_atomic_t g_finish = 0;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out.push_back('\\');
    // Error texts come from the other side and may be no UTF-8.
    out.push_back(byte < 0x20 || byte > 0x7e ? '?' : c);
  }
  return out + "\"";
}

void print(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void write_histogram(std::ostream& out, const char* name, const Histogram& histogram) {
  out << ",\"" << name << "\":{\"total\":" << histogram.total()
      << ",\"largest\":" << histogram.largest() << ",\"sum\":" << histogram.sum()
      << ",\"buckets\":[";
  const char* comma = "";
  for (const auto& [value, count] : histogram.buckets()) {
    out << comma << '[' << value << ',' << count << ']';
    comma = ",";
  }
  out << "]}";
}

// Everything there is to tell at the end, all workers together.
std::string result(const std::vector<std::unique_ptr<Worker>>& workers, const Plan& plan,
                   Nanos planned) {
  auto reads = std::make_unique<Histogram>();
  auto writes = std::make_unique<Histogram>();
  std::map<std::string, std::uint64_t> errors;
  std::uint64_t refused = 0, reconnections = 0, unanswered = 0, received = 0, written = 0;
  Nanos lag = 0, busiest = 0, processor = 0, last = 0;
  std::ostringstream stalls;
  std::vector<std::uint64_t> series;
  const char* comma = "";
  for (const auto& worker : workers) {
    const auto& tally = worker->tally();
    reads->add(tally.reads);
    writes->add(tally.writes);
    for (const auto& [text, count] : tally.errors) errors[text] += count;
    refused += tally.refused;
    reconnections += tally.reconnections;
    unanswered += tally.unanswered;
    received += tally.received;
    written += tally.written;
    lag = std::max(lag, tally.lag);
    busiest = std::max(busiest, tally.processor);
    processor += tally.processor;
    last = std::max(last, tally.last_answer);
    if (series.size() < tally.series.size()) series.resize(tally.series.size());
    for (std::size_t i = 0; i < tally.series.size(); ++i) series[i] += tally.series[i];
    for (const auto& stall : tally.stalls) {
      stalls << comma << '[' << stall.at << ',' << stall.length << ']';
      comma = ",";
    }
  }
  std::ostringstream out;
  out.precision(17);
  out << "{\"event\":\"result\",\"planned\":" << planned
      << ",\"until_last_answer\":" << (last > 0 ? last - plan.measure : 0)
      << ",\"refused\":" << refused << ",\"reconnections\":" << reconnections
      << ",\"unanswered\":" << unanswered << ",\"received\":" << received
      << ",\"written\":" << written << ",\"lag\":" << lag << ",\"processor\":" << processor
      << ",\"busiest\":" << busiest << ",\"stalls\":[" << stalls.str()
      << "],\"began\":" << plan.measure << ",\"series\":[";
  comma = "";
  for (const auto count : series) {
    out << comma << count;
    comma = ",";
  }
  out << "],\"errors\":{";
  comma = "";
  for (const auto& [text, count] : errors) {
    out << comma << quoted(text) << ':' << count;
    comma = ",";
  }
  out << "}";
  write_histogram(out, "reads", *reads);
  write_histogram(out, "writes", *writes);
  out << "}";
  return out.str();
}

void allow_files(std::uint32_t connections) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t wanted = connections + 64;
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  if (limit.rlim_cur < wanted || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    throw Failure("--connections " + std::to_string(connections) +
                  " needs more open files than this user may have: see ulimit -n");
  }
}

class Run {
 public:
  explicit Run(const Options& options) : options_(options), content_(options) {
    allow_files(options.connections);
    for (const auto& address : options.addresses) endpoints_.push_back(resolve(address));
    if (options.distribution == Distribution::kZipfian) zipf_.emplace(options.keys, options.theta);
    for (std::uint32_t i = 0; i < options.threads; ++i) {
      workers_.push_back(std::make_unique<Worker>(options_, endpoints_, content_,
                                                  zipf_ ? &*zipf_ : nullptr, plan_, i));
    }
  }

  void execute() {
    for (auto& worker : workers_) threads_.emplace_back([&worker] { worker->run(); });
    wait_until([this] { return sum_ready() == options_.connections; });
    if (!plan_.stop) {
      // A little later, so that every worker has heard of it and an open loop begins on time.
      const auto start = now() + kNotice;
      plan_.measure = start + options_.warm_up;
      plan_.end = plan_.measure + (options_.count > 0 ? kForever : options_.duration);
      plan_.start.store(start, std::memory_order_release);
      print("{\"event\":\"ready\"}");
      wait_until([this] { return now() >= plan_.measure; });
      if (!plan_.stop) print("{\"event\":\"measure\"}");
      wait_until([this] { return now() >= plan_.end || all_done() || g_finish != 0; });
      plan_.finish = g_finish != 0;
      over_ = std::min(plan_.end, g_finish != 0 ? now() : plan_.end);
      if (!plan_.stop) print("{\"event\":\"measured\"}");
    }
    wait_until([this] { return all_done(); });
    for (auto& thread : threads_) thread.join();
    for (const auto& worker : workers_) {
      if (!worker->tally().failure.empty()) throw Failure(worker->tally().failure);
    }
    if (g_interrupted != 0) throw Failure("interrupted");
    print(result(workers_, plan_, over_ - plan_.measure));
  }

 private:
  static constexpr Nanos kNotice = 50'000'000;
  static constexpr Nanos kForever = Nanos{1} << 60;

  template <typename Condition>
  void wait_until(Condition condition) {
    auto told = now();
    while (!condition() && !(plan_.stop && all_done())) {
      usleep(2000);
      // Without its parent, which reads what we print, there is nobody to work for.
      if (g_interrupted != 0 || getppid() != parent_) plan_.stop = true;
      if (options_.progress > 0 && now() - told >= options_.progress) {
        told = now();
        std::uint64_t answers = 0;
        for (const auto& worker : workers_) answers += worker->tally().answers;
        print("{\"event\":\"progress\",\"answers\":" + std::to_string(answers) + "}");
      }
    }
  }

  std::uint32_t sum_ready() const {
    std::uint32_t sum = 0;
    for (const auto& worker : workers_) sum += worker->tally().ready;
    return sum;
  }

  bool all_done() const {
    for (const auto& worker : workers_) {
      if (!worker->tally().done) return false;
    }
    return true;
  }

  const Options& options_;
  Content content_;
  std::vector<Endpoint> endpoints_;
  std::optional<Zipf> zipf_;
  Plan plan_;
  Nanos over_ = 0;  // the end of the measured time
  const pid_t parent_ = getppid();
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace
}  // namespace mpaxos::load

int main(int count, char** words) {
  using namespace mpaxos::load;
  std::signal(SIGINT, [](int) { g_interrupted = 1; });
  std::signal(SIGTERM, [](int) { g_interrupted = 1; });
  std::signal(SIGUSR1, [](int) { g_finish = 1; });
  try {
    const auto options = parse_options({words + 1, words + count});
    Run(options).execute();
    return 0;
  } catch (const std::exception& error) {
    print(std::string("{\"event\":\"failure\",\"text\":") + quoted(error.what()) + "}");
    return 1;
  }
}
