#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "engine_calls.hpp"
#include "overlay.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;

namespace mpaxos {
namespace {

// The engine in the pool.
class PoolSource final : public OverlaySource {
 public:
  explicit PoolSource(nb::object engine)
      : keeper_(std::move(engine)), engine_(nb::cast<Engine&>(keeper_)) {}

  nb::list begin(std::uint64_t slot, std::uint64_t time, nb::object batch) override {
    return begin_slot(engine_, slot, time, nb::cast<std::shared_ptr<Batch>>(batch));
  }

  nb::object finish(const nb::list& replies, const std::vector<Change>& changes) override {
    return nb::cast(finish_slot(engine_, replies, changes));
  }

  std::uint32_t container(const std::string& name) override { return engine_.container(name); }

  std::optional<Item> find(std::uint32_t container, std::string_view key) override {
    const auto* leaf = engine_.tree(container).find(key);
    if (leaf == nullptr) return std::nullopt;
    return Item{{leaf->value(), {}}, leaf};
  }

  std::uint64_t count(std::uint32_t container) override { return engine_.tree(container).count(); }
  std::uint64_t used() override { return engine_.state_used(); }

  nb::list scan(std::uint32_t container, std::string_view start,
                std::optional<std::string_view> end, std::size_t limit) override {
    return scan_container(engine_, container, start, end, limit);
  }

 private:
  nb::object keeper_;
  Engine& engine_;
};

// An engine in Python: mpaxos.machine.engine.Engine says what it has.
class PythonSource final : public OverlaySource {
 public:
  explicit PythonSource(nb::object engine) : engine_(std::move(engine)) {}

  nb::list begin(std::uint64_t slot, std::uint64_t time, nb::object batch) override {
    return nb::cast<nb::list>(engine_.attr("begin")(slot, time, batch));
  }

  nb::object finish(const nb::list& replies, const std::vector<Change>& changes) override {
    nb::list list;
    for (const auto& change : changes) {
      nb::object value = nb::none();
      if (change.value) value = as_bytes(*change.value);
      list.append(nb::make_tuple(change.container, as_bytes(change.key), value));
    }
    return engine_.attr("finish")(replies, list);
  }

  std::uint32_t container(const std::string& name) override {
    return nb::cast<std::uint32_t>(engine_.attr("container")(name));
  }

  std::optional<Item> find(std::uint32_t container, std::string_view key) override {
    nb::object found = engine_.attr("get")(container, as_bytes(key));
    if (found.is_none()) return std::nullopt;
    const auto value = nb::cast<nb::bytes>(found);
    return Item{{as_view(value), std::move(found)}, nullptr};
  }

  std::uint64_t count(std::uint32_t container) override {
    return nb::cast<std::uint64_t>(engine_.attr("size")(container));
  }

  std::uint64_t used() override {
    return nb::cast<std::uint64_t>(engine_.attr("state_used")());
  }

  nb::list scan(std::uint32_t container, std::string_view start,
                std::optional<std::string_view> end, std::size_t limit) override {
    nb::object stop = nb::none();
    if (end) stop = as_bytes(*end);
    return nb::cast<nb::list>(engine_.attr("scan")(container, as_bytes(start), stop, limit));
  }

 private:
  nb::object engine_;
};

}  // namespace

std::unique_ptr<OverlaySource> overlay_source(nb::object engine) {
  if (nb::isinstance<Engine>(engine)) return std::make_unique<PoolSource>(std::move(engine));
  return std::make_unique<PythonSource>(std::move(engine));
}

}  // namespace mpaxos
