// Between the thread that turns a replica and the one that runs its machine, when the machine is
// written in Python: slots and reads in one direction, replies in the other. Neither thread needs
// the interpreter for what it gives, and the thread that turns needs it for nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "batch.hpp"
#include "replies.hpp"

namespace mpaxos {

class HandOver {
 public:
  enum class Kind : std::uint8_t { kSlot, kReads, kCall, kStop };

  // To be done by the machine's thread, in this order.
  struct Work {
    Kind kind;
    std::uint64_t slot = 0;
    std::uint64_t time = 0;
    BatchPtr batch = nullptr;
  };

  struct Result {
    std::uint64_t slot;  // 0: of reads
    std::uint64_t digest;
    ReplySet replies;
  };

  // Any thread.
  void put(Work work);
  // Drops what waits; from then on there is nothing but kStop to be taken.
  void stop();
  bool has_results() const { return results_waiting_.load(std::memory_order_acquire); }
  std::vector<Result> take_results();
  // `on_result` is called by the machine's thread when there are results again after there were
  // none; not while another call of it or unbind() runs.
  void bind(std::function<void()> on_result);
  void unbind() { bind(nullptr); }

  // The machine's thread.
  Work take();  // waits for it
  void done(Result result);

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<Work> work_;
  bool stopped_ = false;
  std::vector<Result> results_;
  std::atomic<bool> results_waiting_{false};
  std::function<void()> on_result_;
};

}  // namespace mpaxos
