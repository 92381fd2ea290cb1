// A driver library without a GPU: memory is the host's, the stream stands still until somebody waits for it,
// kernels do nothing but are checked and counted. Structs are written from cuda.h, not from the launcher's.
//
// A captured graph keeps what was put on the stream and does it again when it is launched. Every launch is
// written to $FAKE_CUDA_LOG, if set: its kernel, grid, threads, and the attributes that it has.
//
// Time is a model: a launch takes 1 µs and 10 ns for each program, and 1 µs for each 128 threads of a program beyond the
// first; a copy takes its bytes at 4 TB/s. A graph really takes $FAKE_CUDA_SLEEP ms, if set. Launches of the kernel
// $FAKE_CUDA_BROKEN with 256 threads fail.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

struct LaunchAttribute {
  int id;
  char pad[8 - sizeof(int)];
  union {
    char pad[64];
    int programmatic_stream_serialization_allowed;
  } value;
};

struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void* stream;
  LaunchAttribute* attrs;
  unsigned num_attrs;
};

struct Memcpy2D {
  size_t src_x, src_y;
  int src_type;
  const void* src_host;
  unsigned long long src_device;
  void* src_array;
  size_t src_pitch;
  size_t dst_x, dst_y;
  int dst_type;
  void* dst_host;
  unsigned long long dst_device;
  void* dst_array;
  size_t dst_pitch;
  size_t width, height;
};

struct Function {
  std::string name;
  int max_shared = 48 << 10;
};

using Work = std::function<void()>;
std::vector<Work>* capturing = nullptr;
std::deque<Work> stream;     // put there, not done yet
size_t num_put = 0, num_done = 0;
thread_local bool has_context = false;
int num_allocations = 0;

double now = 0;  // µs, on the stream

struct Event {
  size_t place = 0;  // on the stream
  double time = 0;
};

void log(const char* line) {
  if (!getenv("FAKE_CUDA_LOG")) return;
  if (FILE* file = fopen(getenv("FAKE_CUDA_LOG"), "a")) {
    fprintf(file, "%s\n", line);
    fclose(file);
  }
}

int enqueue(Work work) {
  if (!has_context) return 201;
  if (capturing) {
    capturing->push_back(work);
  } else {
    stream.push_back(work);
    ++num_put;
  }
  return 0;
}

int do_up_to(size_t end) {
  if (!has_context) return 201;
  if (capturing) return 900;
  for (; num_done < end; ++num_done) {
    stream.front()();
    stream.pop_front();
  }
  return 0;
}

}  // namespace

extern "C" {

int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int* device, int index) { return *device = index; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? atoi(getenv("FAKE_CUDA_MAJOR")) : attribute == 38 ? 1 << 20 : 0;
  return 0;
}
int cuDeviceGetName(char* name, int size, int) { snprintf(name, size, "Fake GPU"); return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &capturing; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) {
  char line[64];
  snprintf(line, sizeof line, "released %d", num_allocations);
  log(line);
  return 0;
}
int cuCtxSetCurrent(void* context) { return (has_context = context == &capturing) ? 0 : 201; }
int cuMemGetInfo_v2(size_t* free, size_t* total) { *free = *total = size_t{1} << 30; return 0; }
int cuGetErrorName(int, const char** text) { *text = "CUDA_ERROR_FAKE"; return 0; }

int cuStreamCreate(void** stream, unsigned) { *stream = &num_allocations; return 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return do_up_to(num_put); }
int cuEventCreate(void** event, unsigned) { *event = new Event; return 0; }
int cuEventRecord(void* event, void*) {
  Event* const point = static_cast<Event*>(event);
  const int code = enqueue([=] { point->time = now; });
  point->place = num_put;
  return code;
}
int cuEventSynchronize(void* event) { return do_up_to(static_cast<Event*>(event)->place); }
int cuEventElapsedTime(float* ms, void* begin, void* end) {
  *ms = static_cast<float>((static_cast<Event*>(end)->time - static_cast<Event*>(begin)->time) / 1e3);
  return 0;
}

int cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
  if (bytes > size_t{1} << 30) return 2;
  ++num_allocations;
  *address = reinterpret_cast<unsigned long long>(aligned_alloc(256, (bytes + 255) / 256 * 256));
  return 0;
}
int cuMemFree_v2(unsigned long long address) {
  --num_allocations;
  free(reinterpret_cast<void*>(address));
  return 0;
}
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  ++num_allocations;
  *pointer = malloc(bytes);
  return 0;
}
int cuMemFreeHost(void* pointer) { --num_allocations; free(pointer); return 0; }
int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t bytes, void*) {
  return enqueue([=] { memset(reinterpret_cast<void*>(address), value, bytes); });
}
int cuMemcpyHtoDAsync_v2(unsigned long long target, const void* source, size_t bytes, void*) {
  return enqueue([=] { memcpy(reinterpret_cast<void*>(target), source, bytes); });
}
int cuMemcpyDtoDAsync_v2(unsigned long long, unsigned long long, size_t bytes, void*) {
  return enqueue([=] { now += 2.0 * bytes / 4e6; });
}
int cuMemcpyDtoHAsync_v2(void* target, unsigned long long source, size_t bytes, void*) {
  return enqueue([=] { memcpy(target, reinterpret_cast<void*>(source), bytes); });
}
int cuMemcpy2DAsync_v2(const Memcpy2D* given, void*) {
  const Memcpy2D copy = *given;
  if (copy.src_type != 1 || copy.dst_type != 2 || copy.width > copy.dst_pitch) return 1;
  return enqueue([=] {
    for (size_t row = 0; row < copy.height; ++row)
      memcpy(reinterpret_cast<char*>(copy.dst_device) + row * copy.dst_pitch,
             static_cast<const char*>(copy.src_host) + row * copy.src_pitch, copy.width);
  });
}

int cuModuleLoadData(void** module, const void* image) {
  if (memcmp(image, "\177ELF", 4) != 0) return 200;
  *module = const_cast<void*>(image);
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char* name) { *function = new Function{name}; return 0; }
int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8) return 1;
  static_cast<Function*>(function)->max_shared = value;
  return 0;
}

int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void** extra) {
  const Function& kernel = *static_cast<Function*>(function);
  const bool has_pdl = config->num_attrs == 1 && config->attrs[0].id == 6 &&
                       config->attrs[0].value.programmatic_stream_serialization_allowed == 1;
  if (extra || !parameters || !parameters[0] || config->stream != &num_allocations) return 1;
  if (config->block_x < 32 || config->block_x > 1024 || config->block_y != 1 || config->block_z != 1) return 1;
  if (!config->grid_x || !config->grid_y || !config->grid_z || config->grid_y > 65535) return 1;
  if (int(config->shared_bytes) > kernel.max_shared || (config->num_attrs && !has_pdl)) return 1;
  const char* broken = getenv("FAKE_CUDA_BROKEN");
  if (broken && kernel.name == broken && config->block_x == 256) return 719;
  const double micros = 1 + 0.01 * config->grid_x * config->grid_y * config->grid_z + (config->block_x - 1) / 128;
  char line[256];
  snprintf(line, sizeof line, "%s grid %u %u %u threads %u pdl %d", kernel.name.c_str(), config->grid_x,
           config->grid_y, config->grid_z, config->block_x, has_pdl);
  const std::string text = line;
  return enqueue([=] {
    now += micros;
    log(text.c_str());
  });
}

int cuStreamBeginCapture_v2(void*, int) { capturing = new std::vector<Work>; return 0; }
int cuStreamEndCapture(void*, void** graph) { *graph = capturing; capturing = nullptr; return 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  *executable = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph));
  return int(flags);
}
int cuGraphDestroy(void* graph) { delete static_cast<std::vector<Work>*>(graph); return 0; }
int cuGraphExecDestroy(void* graph) { delete static_cast<std::vector<Work>*>(graph); return 0; }
int cuGraphLaunch(void* graph, void*) {
  return enqueue([=] {
    log("graph");
    if (const char* ms = getenv("FAKE_CUDA_SLEEP")) usleep(1000 * atoi(ms));
    for (const Work& work : *static_cast<std::vector<Work>*>(graph)) work();
  });
}

}
