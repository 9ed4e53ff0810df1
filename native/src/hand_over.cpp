#include "hand_over.hpp"

#include <utility>

namespace mpaxos {

void HandOver::put(Work work) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  work_.push_back(std::move(work));
  if (work_.size() == 1) filled_.notify_one();
}

void HandOver::stop() {
  const std::lock_guard lock(mutex_);
  work_.clear();
  stopped_ = true;
  filled_.notify_one();
}

HandOver::Work HandOver::take() {
  std::unique_lock lock(mutex_);
  filled_.wait(lock, [this] { return stopped_ || !work_.empty(); });
  if (stopped_) return {.kind = Kind::kStop};
  auto work = std::move(work_.front());
  work_.pop_front();
  return work;
}

void HandOver::done(Result result) {
  const std::lock_guard lock(mutex_);
  results_.push_back(std::move(result));
  if (!results_waiting_.exchange(true) && on_result_) on_result_();
}

std::vector<HandOver::Result> HandOver::take_results() {
  const std::lock_guard lock(mutex_);
  results_waiting_ = false;
  return std::exchange(results_, {});
}

void HandOver::bind(std::function<void()> on_result) {
  const std::lock_guard lock(mutex_);
  on_result_ = std::move(on_result);
}

}  // namespace mpaxos
