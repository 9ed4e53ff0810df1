// Which key, and whether it is read or written.
#pragma once

#include <cmath>
#include <cstdint>

#include "options.hpp"

namespace mpaxos::load {

struct Operation {
  bool read;
  std::uint64_t key;
};

// splitmix64: a full-period mixer, enough for load and quick.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

// Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994, section 4.1;
// ranks are scattered over the keys as in YCSB, so that the hot ones are no neighbours.
class Zipf {
 public:
  Zipf(std::uint64_t keys, double theta) : keys_(keys), theta_(theta), alpha_(1 / (1 - theta)) {
    zeta_ = 0;
    for (std::uint64_t i = 1; i <= keys; ++i) zeta_ += std::pow(static_cast<double>(i), -theta);
    const double zeta2 = 1 + std::pow(0.5, theta);
    eta_ = (1 - std::pow(2.0 / static_cast<double>(keys), 1 - theta)) / (1 - zeta2 / zeta_);
  }
  std::uint64_t operator()(Random& random) const {
    const double u = random.unit();
    const double uz = u * zeta_;
    std::uint64_t rank = 0;
    if (uz >= 1) {
      rank = 1;
      if (uz >= 1 + std::pow(0.5, theta_)) {
        rank = static_cast<std::uint64_t>(static_cast<double>(keys_) *
                                          std::pow(eta_ * u - eta_ + 1, alpha_));
      }
    }
    return Random::mix(rank) % keys_;
  }

 private:
  std::uint64_t keys_;
  double theta_, alpha_, zeta_, eta_;
};

class Chooser {
 public:
  // `zipf` may be null for the other distributions; `first` is where a sequential run begins.
  Chooser(const Options& options, const Zipf* zipf, std::uint64_t seed, std::uint64_t first)
      : options_(options), zipf_(zipf), random_(seed), next_(first) {}
  Operation next() {
    const bool read = options_.reads > 0 && random_.unit() < options_.reads;
    switch (options_.distribution) {
      case Distribution::kZipfian: return {read, (*zipf_)(random_)};
      case Distribution::kSequential: return {read, next_++ % options_.keys};
      default: return {read, random_.next() % options_.keys};
    }
  }

 private:
  const Options& options_;
  const Zipf* zipf_;
  Random random_;
  std::uint64_t next_;
};

}  // namespace mpaxos::load
