#include "protocol.hpp"

#include <map>

namespace mpaxos::load {

Content::Content(const Options& options) : size_(options.size) {
  Random random(options.seed + 77);
  bytes_.resize(size_ + kOffsets);
  for (auto& byte : bytes_) byte = static_cast<char>('!' + random.next() % 90);
}

void Content::write_key(char* out, std::uint64_t key) {
  for (std::size_t i = kKey - 1; i > 0; --i, key /= 10) {
    out[i] = static_cast<char>('0' + key % 10);
  }
  out[0] = 'k';
}

std::string Content::key(std::uint64_t key) {
  std::string text(kKey, 'k');
  write_key(text.data(), key);
  return text;
}

std::vector<Nanos> starts(Window& window) {
  std::vector<Nanos> found;
  window.each([&](const Window::Slot& slot) { found.push_back(slot.start); });
  return found;
}

MakeProtocol find_protocol(const std::string& name) {
  static const std::map<std::string, MakeProtocol> known = {
      {"native", make_native}, {"jpaxos", make_jpaxos},       {"echo", make_echo},
      {"redis", make_redis},   {"zookeeper", make_zookeeper}, {"etcd", make_etcd},
  };
  return known.at(name);
}

}  // namespace mpaxos::load
