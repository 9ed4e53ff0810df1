// Counts of values by size, with a relative error below 0.1 %: the layout of HdrHistogram, with
// which the Python side reads it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace mpaxos::load {

class Histogram {
 public:
  Histogram() : counts_(static_cast<std::size_t>(kOctaves + 1) << kBits) {}

  // Values beyond 2^40 ns (18 minutes) count as that.
  void add(std::int64_t value) {
    const auto v = static_cast<std::uint64_t>(std::clamp<std::int64_t>(value, 0, kLargest));
    ++counts_[index(v)];
    ++total_;
    largest_ = std::max(largest_, v);
    sum_ += static_cast<double>(v);
  }

  void add(const Histogram& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
    largest_ = std::max(largest_, other.largest_);
    sum_ += other.sum_;
  }

  std::uint64_t total() const { return total_; }
  std::uint64_t largest() const { return largest_; }
  double sum() const { return sum_; }

  // (middle of a bucket, count) of all that are not empty, ascending.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> found;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] != 0) found.emplace_back(middle(i), counts_[i]);
    }
    return found;
  }

 private:
  static constexpr int kBits = 10;      // 1024 buckets per power of two
  static constexpr int kOctaves = 30;   // powers of two above the first 1024 values
  static constexpr std::int64_t kLargest = (std::int64_t{1} << (kBits + kOctaves)) - 1;

  static std::size_t index(std::uint64_t value) {
    if (value < (1U << kBits)) return value;
    const int shift = std::bit_width(value) - kBits - 1;
    return (static_cast<std::size_t>(shift + 1) << kBits) + (value >> shift) - (1U << kBits);
  }
  static std::uint64_t middle(std::size_t index) {
    if (index < (1U << kBits)) return index;
    const auto shift = (index >> kBits) - 1;
    const auto first = (index - (shift << kBits)) << shift;
    return first + ((1ULL << shift) >> 1);
  }

  std::vector<std::uint64_t> counts_;
  std::uint64_t total_ = 0;
  std::uint64_t largest_ = 0;
  double sum_ = 0;
};

}  // namespace mpaxos::load
