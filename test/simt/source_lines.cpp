// Frames come from `addr2line -i`: bodies of the prelude are inlined into kernels, so the frame around them is the line asked for.
#include "source_lines.hpp"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <map>

namespace simt {

namespace {

std::map<const void*, Place> places;

// Lines of these files belong to whoever called them.
bool is_prelude(const std::string& file) { return file.rfind("prelude.", 0) == 0 || file.rfind("simt_", 0) == 0; }

struct Module {
  const char* base;
  std::vector<const void*> pcs;
};

// addr2line prints for each address the address itself, then the frames inlined there, innermost first.
void read_places(const std::string& path, const Module& module) {
  std::string command = "addr2line -a -s -i -e '" + path + "'";
  char text[4096];
  for (const void* pc : module.pcs) {
    snprintf(text, sizeof text, " 0x%zx", size_t(static_cast<const char*>(pc) - module.base - 1));
    command += text;
  }
  FILE* output = popen((command + " 2>/dev/null").c_str(), "r");
  if (!output) return;
  size_t next = 0;
  Place* place = nullptr;
  while (fgets(text, sizeof text, output)) {
    if (text[0] == '0' && text[1] == 'x') {
      place = next < module.pcs.size() ? &places[module.pcs[next++]] : nullptr;
      continue;
    }
    const char* colon = strrchr(text, ':');
    if (!place || !colon) continue;
    const std::string file(text, size_t(colon - text));
    const int line = atoi(colon + 1);
    if (line == 0) continue;
    place->frames += file + ":" + std::to_string(line) + " ";
    if (place->line != 0 && !is_prelude(place->file)) continue;
    place->file = file;
    place->line = line;
  }
  pclose(output);
}

}  // namespace

void find_places(const std::vector<const void*>& pcs) {
  std::map<std::string, Module> modules;
  for (const void* pc : pcs) {
    if (!places.insert({pc, {}}).second) continue;
    Dl_info info{};
    if (!dladdr(pc, &info) || !info.dli_fname) continue;
    // A library loaded from memory is a file descriptor of this process, not of addr2line.
    std::string path = info.dli_fname;
    if (path.rfind("/proc/self/", 0) == 0) path.replace(6, 4, std::to_string(getpid()));
    Module& module = modules[path];
    module.base = static_cast<const char*>(info.dli_fbase);
    module.pcs.push_back(pc);
  }
  // The system limits a command's length.
  constexpr size_t kBatch = 1000;
  for (const auto& [path, module] : modules) {
    for (size_t i = 0; i < module.pcs.size(); i += kBatch) {
      const auto from = module.pcs.begin() + long(i);
      read_places(path, {module.base, {from, i + kBatch < module.pcs.size() ? from + kBatch : module.pcs.end()}});
    }
  }
}

const Place& place_of(const void* pc) {
  const auto found = places.find(pc);
  if (found != places.end()) return found->second;
  find_places({pc});
  return places[pc];
}

std::string line_of(const void* pc) {
  const Place& place = place_of(pc);
  if (place.line != 0) return place.file + ":" + std::to_string(place.line);
  Dl_info info{};
  char text[512];
  const bool known = dladdr(pc, &info) && info.dli_fname;
  snprintf(text, sizeof text, "%s+0x%zx (no line: is addr2line installed?)", known ? info.dli_fname : "?",
           size_t(static_cast<const char*>(pc) - static_cast<const char*>(info.dli_fbase)));
  return text;
}

bool is_same_line(const void* a, const void* b) {
  if (a == b) return true;
  const std::string frames = place_of(a).frames;
  return !frames.empty() && frames == place_of(b).frames;
}

void forget_places() { places.clear(); }

}  // namespace simt
