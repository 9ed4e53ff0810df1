#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>

#include "bindings.hpp"
#include "image_source.hpp"
#include "image_target.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

using Ballot = std::pair<std::uint64_t, std::uint32_t>;

nb::object next(ImageSource& source, std::size_t max_bytes) {
  std::optional<std::string> chunk;
  {
    nb::gil_scoped_release release;
    chunk = source.next(max_bytes);
  }
  if (!chunk) return nb::none();
  return nb::bytes(chunk->data(), chunk->size());
}

ChunkPtr next_chunk(ImageSource& source, std::size_t max_bytes) {
  const nb::gil_scoped_release release;
  auto chunk = source.next(max_bytes);
  return chunk ? ImageChunk::sealed(std::move(*chunk)) : nullptr;
}

nb::dict source_progress(const ImageSource& source) {
  const auto progress = source.progress();
  nb::dict d;
  d["chunks"] = progress.chunks;
  d["bytes"] = progress.bytes;
  d["items"] = progress.items;
  d["total"] = progress.total;
  d["again"] = progress.again;
  d["dirty"] = progress.dirty;
  d["memory"] = progress.memory;
  return d;
}

ChunkPtr parse(const nb::bytes& data) {
  return ImageChunk::parse(SharedBytes::of(std::string(as_view(data))));
}

bool install(ImageTarget& target, const nb::object& data, const std::optional<Ballot>& promise) {
  std::optional<Promise> promised;
  if (promise) promised = Promise{promise->first, promise->second};
  const bool is_bytes = nb::isinstance<nb::bytes>(data);
  if (!is_bytes && !nb::isinstance<ImageChunk>(data)) {
    throw nb::type_error("a chunk is bytes or a Chunk");
  }
  const ChunkPtr chunk = is_bytes ? parse(nb::cast<nb::bytes>(data))
                                  : nb::cast<std::shared_ptr<ImageChunk>>(data);
  const nb::gil_scoped_release release;
  return target.install(*chunk, promised);
}

nb::dict target_progress(const ImageTarget& target) {
  const auto progress = target.progress();
  nb::dict d;
  d["image"] = progress.image;
  d["next"] = progress.next;
  d["records"] = progress.records;
  d["bytes"] = progress.bytes;
  d["slot"] = progress.slot;
  return d;
}

nb::tuple chunk_info(const nb::bytes& chunk) {
  const ChunkReader reader(as_view(chunk));
  const auto& header = reader.header();
  return nb::make_tuple(header.image, header.number, header.slot, reader.final());
}

}  // namespace

void bind_image(nb::module_& m) {
  m.attr("CHUNK_HEADER") = static_cast<int>(sizeof(ChunkHeader));
  m.attr("MAX_CHUNK") = static_cast<int>(kMaxChunk);
  m.attr("MAX_IMAGES") = static_cast<int>(kMaxImages);
  m.def("chunk_length",
        [](const nb::bytes& header) { return ChunkReader::length_of(as_view(header)); },
        "header"_a);
  m.def("chunk_info", &chunk_info, "chunk"_a);

  nb::class_<ImageChunk>(m, "Chunk")
      .def_static("parse", &parse, "data"_a)
      .def_prop_ro("image", [](const ImageChunk& c) { return c.header().image; })
      .def_prop_ro("number", [](const ImageChunk& c) { return c.header().number; })
      .def_prop_ro("slot", [](const ImageChunk& c) { return c.header().slot; })
      .def_prop_ro("final", &ImageChunk::final)
      .def("__len__", [](const ImageChunk& c) { return c.bytes().size(); })
      .def("__bytes__",
           [](const ImageChunk& c) { return nb::bytes(c.bytes().data(), c.bytes().size()); });

  nb::class_<ImageSource>(m, "ImageSource")
      .def(
          "__init__",
          [](ImageSource* self, Engine& engine, std::uint64_t max_dirty) {
            new (self) ImageSource(engine, {max_dirty});
          },
          "engine"_a, nb::kw_only(), "max_dirty"_a = 128 << 20,
          nb::keep_alive<1, 2>())
      .def("next", &next, "max_bytes"_a = 256 << 10)
      .def("next_chunk", &next_chunk, "max_bytes"_a = 256 << 10)
      .def_prop_ro("image", &ImageSource::image)
      .def_prop_ro("cut", &ImageSource::cut)
      .def("progress", &source_progress)
      .def("close", &ImageSource::close);

  nb::class_<ImageTarget>(m, "ImageTarget")
      .def(
          "__init__",
          [](ImageTarget* self, FilePool& pool, bool larger) {
            new (self) ImageTarget(pool, larger);
          },
          "pool"_a, nb::kw_only(), "larger"_a = false, nb::keep_alive<1, 2>())
      .def("install", &install, "chunk"_a, "promise"_a.none() = nb::none())
      .def_prop_ro("complete", &ImageTarget::complete)
      .def("progress", &target_progress);
}

}  // namespace mpaxos
