#include "kv.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "batch.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kMaxScanReply = 1 << 20;

void append_u32(std::string& out, std::uint32_t value) {
  const char bytes[4] = {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
                         static_cast<char>(value >> 8), static_cast<char>(value)};
  out.append(bytes, sizeof bytes);
}

std::uint64_t size_of(std::string_view key, std::string_view value) {
  return kItemOverhead + key.size() + value.size();
}

}  // namespace

// Reads a request from front to back; throws the text of a BAD reply.
class Fields {
 public:
  explicit Fields(std::string_view request) : rest_(request.substr(1)) {}
  std::uint32_t number() {
    const auto bytes = take(4);
    std::uint32_t value = 0;
    for (const char c : bytes) value = value << 8 | static_cast<std::uint8_t>(c);
    return value;
  }
  bool flag() {
    const auto value = static_cast<std::uint8_t>(take(1)[0]);
    if (value > 1) throw "a flag is neither 0 nor 1";
    return value == 1;
  }
  std::string_view text() { return take(number()); }
  std::string_view key() {
    const auto key = text();
    if (key.size() > kMaxKey) throw "the key is longer than 65536 bytes";
    return key;
  }
  std::string_view rest() { return take(rest_.size()); }
  void end() const {
    if (!rest_.empty()) throw "the request is too long";
  }

 private:
  std::string_view take(std::size_t count) {
    if (count > rest_.size()) throw "the request is cut short";
    const auto taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  std::string_view rest_;
};

namespace {

// The key that a request is about; nothing when it has none, or is wrong: operate() says so.
std::optional<std::string_view> key_of(std::string_view request) {
  const char op = request.empty() ? '\0' : request[0];
  if (std::string_view("pPcGgd").find(op) == std::string_view::npos) return std::nullopt;
  try {
    return Fields(request).key();
  } catch (const char*) {
    return std::nullopt;
  }
}

bool overwrites(char op) { return op == 'p' || op == 'P' || op == 'c'; }

}  // namespace

void KeyValue::look_up(const std::vector<std::string_view>& requests, std::vector<Found>& found) {
  moved_ = false;
  found.clear();
  searches_.clear();
  for (const auto& request : requests) {
    const auto key = key_of(request);
    found.push_back({key.has_value(), nullptr});
    if (key) searches_.push_back({*key});
  }
  tree_.find_all(searches_);
  auto search = searches_.begin();
  for (auto& [known, leaf] : found) {
    if (known) leaf = (search++)->leaf;
  }
}

void KeyValue::prepare(Journal& journal, const std::vector<std::string_view>& requests,
                       std::vector<Found>& found) {
  look_up(requests, found);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto* leaf = found[i].leaf;
    if (leaf != nullptr && overwrites(requests[i][0])) journal.remember(leaf, leaf->size());
  }
}

std::uint8_t KeyValue::run(Transaction& tx, std::string_view request, std::uint64_t& used,
                           Found found) {
  return operate(&tx, request, used, found);
}

std::uint8_t KeyValue::query(std::string_view request, Found found) {
  std::uint64_t used = 0;
  const char op = request.empty() ? '\0' : request[0];
  if (op != 'g' && op != 's' && op != 'n') return bad("not a query: only g, s and n are");
  return operate(nullptr, request, used, found);
}

std::uint8_t KeyValue::operate(Transaction* tx, std::string_view request, std::uint64_t& used,
                               Found found) {
  reply_.clear();
  if (request.empty()) return bad("the request is empty");
  try {
    Fields fields(request);
    switch (request[0]) {
      case 'G':
      case 'g': {
        const auto key = fields.key();
        fields.end();
        const auto* leaf = find(key, found);
        if (request[0] == 'g') reply_.push_back(leaf == nullptr ? '\0' : '\1');
        if (leaf != nullptr) reply_.append(leaf->value());
        return kStatusOk;
      }
      case 'P':
      case 'p': {
        const auto key = fields.key();
        const auto* leaf = find(key, found);
        if (request[0] == 'P' && leaf != nullptr) reply_.append(leaf->value());
        return put(*tx, leaf, key, fields.rest(), used);
      }
      case 'd': {
        const auto key = fields.key();
        fields.end();
        const auto* leaf = find(key, found);
        reply_.push_back(leaf == nullptr ? '\0' : '\1');
        if (leaf != nullptr) erase(*tx, leaf, used);
        return kStatusOk;
      }
      case 'c': return compare_and_set(*tx, fields, used, found);
      case 's': scan(fields); return kStatusOk;
      case 'n': {
        fields.end();
        append_u32(reply_, static_cast<std::uint32_t>(tree_.count() >> 32));
        append_u32(reply_, static_cast<std::uint32_t>(tree_.count()));
        return kStatusOk;
      }
      default: return bad("unknown operation");
    }
  } catch (const char* text) {
    return bad(text);
  }
}

std::uint8_t KeyValue::put(Transaction& tx, const Leaf* found, std::string_view key,
                           std::string_view value, std::uint64_t& used) {
  const auto before = found == nullptr ? 0 : size_of(found->key(), found->value());
  const auto after = size_of(key, value);
  const auto needed = used - before + after;
  if (after > before && needed > limit_) {
    reply_ = "the state may have " + std::to_string(limit_) + " bytes and would have " +
             std::to_string(needed);
    return kStatusNoSpace;
  }
  moved_ = moved_ || found == nullptr || !Tree::fits(*found, value.size());
  tree_.put(tx, found, key, value);
  used = needed;
  return kStatusOk;
}

void KeyValue::erase(Transaction& tx, const Leaf* found, std::uint64_t& used) {
  used -= size_of(found->key(), found->value());
  moved_ = true;
  tree_.erase(tx, found);
}

std::uint8_t KeyValue::compare_and_set(Transaction& tx, Fields& fields, std::uint64_t& used,
                                       Found found) {
  const auto key = fields.key();
  const bool has_expected = fields.flag();
  const auto expected = has_expected ? fields.text() : std::string_view();
  const bool has_next = fields.flag();
  const auto next = has_next ? fields.rest() : std::string_view();
  fields.end();
  const auto* leaf = find(key, found);
  const bool matches = leaf == nullptr ? !has_expected : has_expected && leaf->value() == expected;
  if (matches && has_next) {
    const auto status = put(tx, leaf, key, next, used);
    if (status != kStatusOk) return status;
  } else if (matches && leaf != nullptr) {
    erase(tx, leaf, used);
  }
  reply_.push_back(matches ? '\1' : '\0');
  return kStatusOk;
}

void KeyValue::scan(Fields& fields) {
  const auto limit = fields.number();
  const bool has_after = fields.flag();
  const auto after = has_after ? fields.text() : std::string_view();
  const auto prefix = fields.rest();
  std::string start(prefix);
  if (has_after) start = std::max(start, std::string(after) + '\0');
  append_u32(reply_, 0);
  std::uint32_t count = 0;
  Tree::Cursor cursor(tree_, start);
  while (count < limit) {
    const auto* leaf = cursor.next();
    if (leaf == nullptr || !leaf->key().starts_with(prefix)) break;
    const auto item = 8 + leaf->key().size() + leaf->value().size();
    if (count > 0 && reply_.size() + item > kMaxScanReply) break;
    append_u32(reply_, leaf->key_length);
    reply_.append(leaf->key());
    append_u32(reply_, leaf->value_length);
    reply_.append(leaf->value());
    ++count;
  }
  std::string head;
  append_u32(head, count);
  reply_.replace(0, head.size(), head);
}

std::uint8_t KeyValue::bad(std::string_view text) {
  reply_ = text;
  return kStatusBad;
}

}  // namespace mpaxos
