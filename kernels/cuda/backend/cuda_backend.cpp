#include "kernels/cuda/backend/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/cuda/backend/check.h"

namespace tenfold::cuda {
namespace {

// Steps of at most so many tokens are recorded: those that are short enough for launches to count.
constexpr std::int64_t kRecordedTokens = 16;
constexpr std::size_t kMostGraphs = 64;
constexpr std::size_t kCublasWorkspace = std::size_t{32} << 20;  // what NVIDIA advises for sm_90

// Checked, and made the current one.
cudaDeviceProp find_device(int device) {
  const int count = device_count();
  if (device >= count) {
    throw_error(ErrorCode::device, "there is no cuda:{}: this machine has {} GPU{}", device, count,
                count == 1 ? "" : "s");
  }
  cudaDeviceProp properties;
  check(cudaSetDevice(device), "be used");
  check(cudaGetDeviceProperties(&properties, device), "say what it is");
  if (properties.major * 10 + properties.minor < 75) {
    throw_error(ErrorCode::device,
                "{} has compute capability {}.{}, but Tenfold's kernels need at least 7.5",
                properties.name, properties.major, properties.minor);
  }
  return properties;
}

std::filesystem::path tuning_file(const std::string& folder, const cudaDeviceProp& properties) {
  if (folder.empty()) return {};
  std::string name = fmt::format("cuda-{}-{}.txt", properties.name, properties.multiProcessorCount);
  std::ranges::replace_if(
      name, [](char c) { return c == ' ' || c == '/'; }, '-');
  return std::filesystem::path(folder) / name;
}

}  // namespace

CudaBackend::CudaBackend(const ModuleOptions& options)
    : activations_(options.activations),
      properties_(find_device(options.device)),
      table_(tuning_file(options.tuning_folder, properties_)),
      workspace_(device_memory(kCublasWorkspace)) {
  check(device_limits(options.device, &limits_), "say what it is");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
  check(cublasCreate(&cublas_), "start");
  check(cublasSetStream(cublas_, stream_), "use a stream");
  // Its own would be allocated while a step is recorded.
  check(cublasSetWorkspace(cublas_, workspace_.data(), workspace_.bytes()), "use its workspace");
}

CudaBackend::~CudaBackend() {
  drop_graphs();
  if (cublas_ != nullptr) cublasDestroy(cublas_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

std::string CudaBackend::description() const {
  return fmt::format("CUDA {}, {:.1f} GiB{}", properties_.name,
                     static_cast<double>(properties_.totalGlobalMem) / (1 << 30),
                     activations_ == Activations::int8x2 ? ", int8x2 activations" : "");
}

// The current device is a thread's own, and a backend may be made by one thread and used by
// another.
void CudaBackend::make_current() { check(cudaSetDevice(limits_.device), "be used"); }

Buffer CudaBackend::allocate(std::size_t bytes) {
  make_current();
  weights_.next_operation();
  return allocate_within(bytes);
}

Buffer CudaBackend::allocate_within(std::size_t bytes) {
  ++allocations_;
  return weights_.allocate(bytes);
}

template <typename T>
T* CudaBackend::scratch(Scratch& memory, std::size_t count) {
  return memory.get<T>(count, [this](std::size_t bytes) { return allocate_within(bytes); });
}

void CudaBackend::to_device(void* to, const void* from, std::size_t bytes) {
  make_current();
  make_rows();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copy to its memory");
}

void CudaBackend::to_host(void* to, const void* from, std::size_t bytes) {
  make_current();
  make_rows();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from its memory");
  check(cudaStreamSynchronize(stream_), "finish its work");
}

void CudaBackend::copy(void* to, const void* from, std::size_t bytes) {
  make_rows();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy its memory");
}

const float* CudaBackend::on_host(const float* x, std::size_t n) {
  auto* to = pinned_.get<float>(n, pinned_memory);
  to_host(to, x, n * sizeof(float));
  return to;
}

void CudaBackend::forget(const MatrixView& weight) {
  make_rows();
  weights_.forget(weight);
}

void CudaBackend::forget(const float* values) {
  make_rows();
  weights_.forget(values);
}

void CudaBackend::forget_all() {
  make_rows();
  weights_.forget_all();
}

void CudaBackend::place(const TokenPlaces& places) {
  make_current();
  const std::size_t tokens = places.positions.size();
  flat_places_.assign(places.positions.begin(), places.positions.end());
  // Rows of page tables: one for each run of tokens of a sequence.
  std::vector<const std::int32_t*> tables;
  std::vector<std::size_t> pages;  // that the row's tokens see
  for (std::size_t t = 0; t < tokens; ++t) {
    if (tables.empty() || places.page_tables[t] != tables.back()) {
      tables.push_back(places.page_tables[t]);
      pages.push_back(0);
    }
    flat_places_.push_back(static_cast<std::int32_t>(tables.size()) - 1);
    pages.back() =
        std::max(pages.back(), static_cast<std::size_t>(places.positions[t] / kPageTokens) + 1);
  }
  // A power of two, so that recorded steps serve for many lengths.
  std::size_t stride = 1;
  for (const std::size_t n : pages) {
    while (stride < n) stride *= 2;
  }
  for (std::size_t row = 0; row < tables.size(); ++row) {
    flat_places_.insert(flat_places_.end(), tables[row], tables[row] + pages[row]);
    flat_places_.resize(2 * tokens + (row + 1) * stride);
  }
  auto* device = scratch<std::int32_t>(places_memory_, flat_places_.size());
  to_device(device, flat_places_.data(), flat_places_.size() * sizeof(std::int32_t));
  places_ = {device, device + tokens, device + 2 * tokens, static_cast<int>(stride),
             static_cast<int>(tokens)};
}

void CudaBackend::run(const StepKey& key, const std::function<void()>& step) {
  make_rows();
  if (key.tokens > kRecordedTokens || tuning_) return run_whole(step);
  const auto same = [&](const Graph& graph) {
    return graph.key == key && graph.stride == places_.stride;
  };
  auto found = std::ranges::find_if(graphs_, same);
  if (found == graphs_.end() || found->version != version()) {
    // As it is, until that allocates nothing and brings no weights.
    const std::uint64_t before = version();
    run_whole(step);
    if (found == graphs_.end()) {
      if (graphs_.size() == kMostGraphs) drop_graphs();
      found = graphs_.insert(graphs_.end(), Graph{key, places_.stride, 0, nullptr});
    }
    destroy(*found);
    found->version = before;
    return;
  }
  if (found->exec == nullptr) found->exec = record(step);
  check(cudaGraphLaunch(found->exec, stream_), "replay a step");
}

// With what its last operations left to be done.
void CudaBackend::run_whole(const std::function<void()>& step) {
  try {
    step();
    make_rows();
  } catch (...) {
    pending_.reset();
    throw;
  }
}

cudaGraphExec_t CudaBackend::record(const std::function<void()>& step) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "record a step");
  cudaGraph_t graph = nullptr;
  try {
    run_whole(step);
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    cudaGetLastError();  // of the capture
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream_, &graph), "record a step");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "prepare a recorded step");
  return exec;
}

void CudaBackend::destroy(Graph& graph) noexcept {
  if (graph.exec != nullptr) cudaGraphExecDestroy(graph.exec);
  graph.exec = nullptr;
}

void CudaBackend::drop_graphs() noexcept {
  for (Graph& graph : graphs_) destroy(graph);
  graphs_.clear();
}

// Packed products that can share a launch do.
void CudaBackend::linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
                         std::int64_t tokens) {
  if (!reads_pending(x, ldx, tokens)) make_rows();
  weights_.next_operation();
  n_prepared_ = 0;
  products_.clear();
  for (const Linear& part : parts) {
    const DeviceMatrix& matrix = weights_.matrix(part.weight);
    bool first = true;
    for (std::size_t band = 0; band < static_cast<std::size_t>(matrix.table.n_bands); ++band) {
      if (is_packed(matrix.table.bands[band].format)) continue;
      float_product(part, matrix, band, x, ldx, tokens, first);
      first = false;
    }
    if (matrix.n_packed == 0) continue;
    const Prepared& input = prepared_for(part.weight.map, matrix, x, ldx, tokens);
    const DeviceProduct product = packed_product(part, matrix, input, first);
    if (products_.size() == kMaxParts ||
        (!products_.empty() && !share_a_launch(products_.front(), product))) {
      multiply();
    }
    products_.push_back(product);
  }
  multiply();
}

const CudaBackend::Prepared& CudaBackend::prepared_for(const InputMap& map,
                                                       const DeviceMatrix& matrix, const float* x,
                                                       std::int64_t ldx, std::int64_t tokens) {
  for (std::size_t i = 0; i < n_prepared_; ++i) {
    if (prepared_[i].map == map && prepared_[i].cuts == matrix.cuts) return prepared_[i];
  }
  if (n_prepared_ == prepared_.size()) prepared_.emplace_back();
  Prepared& made = prepared_[n_prepared_++];
  made.map = map;
  made.cuts = matrix.cuts;
  const std::span bands = std::span(matrix.cuts).first(static_cast<std::size_t>(matrix.n_packed));
  const int n_tokens = static_cast<int>(tokens);
  auto* memory = scratch<std::byte>(made.memory, activation_bytes(bands, n_tokens));
  made.inputs = lay_out_activations(bands, n_tokens, memory);
  const ActivationSource from{x, ldx, matrix.map.source, matrix.map.factor,
                              outlier_threshold(activations_)};
  prepare(from, bands, n_tokens, memory);
  return made;
}

// Whether what is pending is a product's input; gates are rows of what reads them.
bool CudaBackend::reads_pending(const float* x, std::int64_t ldx, std::int64_t tokens) const {
  if (!pending_ || pending_->rows.y != x || pending_->values != tokens * ldx) return false;
  return pending_->rows.by == MadeRows::By::silu_mul || pending_->rows.dim == ldx;
}

// Where rows are pending they are those that `from` reads.
void CudaBackend::prepare(const ActivationSource& from, std::span<const ActivationBand> bands,
                          int tokens, std::byte* memory) {
  if (pending_) {
    MadeRows rows = on_device(pending_->rows);
    rows.dim = from.ldx;
    if (can_make(rows, from, bands, tokens)) {
      pending_.reset();
      return check(launch_prepare(rows, from, bands, tokens, memory, stream_),
                   "make and round activations");
    }
    make_rows();
  }
  check(launch_prepare(from, bands, tokens, memory, stream_), "round activations");
}

DeviceProduct CudaBackend::packed_product(const Linear& part, const DeviceMatrix& matrix,
                                          const Prepared& input, bool first) {
  DeviceProduct product;
  product.n_bands = matrix.n_packed;
  std::ranges::copy(matrix.packed, product.bands);
  std::ranges::copy(input.inputs, product.x);
  product.bias = first ? weights_.values(part.bias, matrix.rows) : nullptr;
  product.y = part.y;
  product.ldy = part.ldy;
  product.rows = static_cast<int>(matrix.rows);
  product.accumulate = part.accumulate || !first;
  return product;
}

void CudaBackend::multiply() {
  if (products_.empty()) return;
  check(launch_linear(products_, limits_, stream_, tuned(products_)), "multiply by packed weights");
  products_.clear();
}

bool CudaBackend::begin_tuning() {
  drop_graphs();
  table_.begin();
  return tuning_ = true;
}

void CudaBackend::end_tuning() {
  tuning_ = false;
  table_.save();
}

Tuning CudaBackend::tuned(std::span<const DeviceProduct> products) {
  const Tuning* known = table_.find(products);
  if (known != nullptr) return *known;
  if (!tuning_) return {};
  Tuning best;
  float least = seconds_of(products, best);
  for (const Tuning& candidate : tuning_candidates(products[0].x[0].tokens)) {
    const float seconds = seconds_of(products, candidate);
    if (seconds < least) least = seconds, best = candidate;
  }
  table_.set(products, best);
  return best;
}

// Of a launch among others like it; infinite where the device cannot launch it so.
float CudaBackend::seconds_of(std::span<const DeviceProduct> products, const Tuning& tuning) {
  constexpr int kLaunches = 20;
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "time a product");
  check(cudaEventCreate(&end), "time a product");
  float milliseconds = 0;
  cudaError_t error = launch_linear(products, limits_, stream_, tuning);  // warm
  cudaEventRecord(begin, stream_);
  for (int i = 0; i < kLaunches && error == cudaSuccess; ++i) {
    error = launch_linear(products, limits_, stream_, tuning);
  }
  cudaEventRecord(end, stream_);
  check(cudaEventSynchronize(end), "time a product");
  check(cudaEventElapsedTime(&milliseconds, begin, end), "time a product");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration) {
    cudaGetLastError();
    return std::numeric_limits<float>::infinity();
  }
  check(error, "multiply by packed weights");
  return milliseconds / 1000 / kLaunches;
}

// y^T = W x^T as cuBLAS sees it, column by column.
void CudaBackend::multiply(const FloatProduct& p) {
  const cudaDataType type = p.format == Format::f32   ? CUDA_R_32F
                            : p.format == Format::f16 ? CUDA_R_16F
                                                      : CUDA_R_16BF;
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  const int rows = static_cast<int>(p.rows), cols = static_cast<int>(p.cols);
  check(cublasGemmEx(cublas_, CUBLAS_OP_T, CUBLAS_OP_N, rows, static_cast<int>(p.tokens), cols,
                     &one, p.weight, type, cols, p.x, type, static_cast<int>(p.ldx), &beta, p.y,
                     CUDA_R_32F, static_cast<int>(p.ldy), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "multiply by float weights");
}

// What the quantizer's own arithmetic is made of: float32, contiguous.
bool CudaBackend::host_linear(const Linear& part, const float* x, std::int64_t ldx,
                              std::int64_t tokens) {
  constexpr std::int64_t kWorthTheWay = 1 << 24;  // products; fewer the CPU has made by then
  const MatrixView& weight = part.weight;
  if (weight.n_bands != 1 || weight.bands.front().format != Format::f32 ||
      weight.map.source != nullptr || weight.map.factor != nullptr || part.bias != nullptr ||
      ldx != weight.cols || part.ldy != weight.rows ||
      weight.rows * weight.cols * tokens < kWorthTheWay) {
    return false;
  }
  make_rows();
  weights_.next_operation();
  const auto n = static_cast<std::size_t>(weight.rows), k = static_cast<std::size_t>(weight.cols),
             m = static_cast<std::size_t>(tokens);
  auto* w = scratch<float>(host_weight_, n * k);
  auto* from = scratch<float>(host_x_, m * k);
  auto* y = scratch<float>(host_y_, m * n);
  to_device(w, weight.bands.front().codes, n * k * sizeof(float));
  to_device(from, x, m * k * sizeof(float));
  if (part.accumulate) to_device(y, part.y, m * n * sizeof(float));
  multiply(
      {w, from, Format::f32, weight.rows, weight.cols, tokens, ldx, part.ldy, y, part.accumulate});
  to_host(part.y, y, m * n * sizeof(float));
  return true;
}

void CudaBackend::float_product(const Linear& part, const DeviceMatrix& matrix, std::size_t index,
                                const float* x, std::int64_t ldx, std::int64_t tokens, bool first) {
  make_rows();
  const DeviceBand& band = matrix.table.bands[index];
  const std::int64_t begin = matrix.begin[index], cols = band.cols;
  const void* input = x + begin;
  std::int64_t ld_input = ldx;
  const auto* source = matrix.map.source == nullptr ? nullptr : matrix.map.source + begin;
  const auto* factor = matrix.map.factor == nullptr ? nullptr : matrix.map.factor + begin;
  if (source != nullptr || factor != nullptr || band.format != Format::f32) {
    auto* converted = scratch<float>(converted_, static_cast<std::size_t>(tokens * cols));
    check(convert_rows(source == nullptr ? x + begin : x, ldx, source, factor, tokens, cols,
                       band.format, converted, stream_),
          "convert activations");
    input = converted;
    ld_input = cols;
  }
  multiply({band.segments, input, band.format, matrix.rows, cols, tokens, ld_input, part.ldy,
            part.y, part.accumulate || !first});
  if (!first || part.bias == nullptr) return;
  check(add_bias(part.y, weights_.values(part.bias, matrix.rows), tokens, matrix.rows, part.y,
                 part.ldy, false, stream_),
        "add a bias");
}

void CudaBackend::embed_rows(const MatrixView& table, const std::int32_t* ids, std::int64_t tokens,
                             float* y, bool accumulate) {
  make_rows();
  weights_.next_operation();
  check(cuda::embed_rows(weights_.matrix(table).table, ids, tokens, table.cols, y, accumulate,
                         stream_),
        "look up embeddings");
}

void CudaBackend::defer(const MadeRows& rows, std::int64_t values) {
  make_rows();
  weights_.next_operation();
  pending_ = {rows, values};
  // In place it is never made where it is rounded.
  if (rows.y == rows.x || rows.y == rows.with) make_rows();
}

// A norm's weights where they are now: of the operation at hand.
MadeRows CudaBackend::on_device(const MadeRows& rows) {
  MadeRows made = rows;
  if (rows.by == MadeRows::By::silu_mul) return made;
  made.with = weights_.values(rows.with, rows.dim);
  made.bias = weights_.values(rows.bias, rows.dim);
  return made;
}

void CudaBackend::make_rows() {
  if (!pending_) return;
  const std::int64_t n = pending_->values;
  const MadeRows rows = on_device(std::exchange(pending_, std::nullopt)->rows);
  switch (rows.by) {
    case MadeRows::By::rms_norm:
      return check(
          cuda::rms_norm(rows.x, rows.with, rows.eps, n / rows.dim, rows.dim, rows.y, stream_),
          "normalize");
    case MadeRows::By::layer_norm:
      return check(cuda::layer_norm(rows.x, rows.with, rows.bias, rows.eps, n / rows.dim, rows.dim,
                                    rows.y, stream_),
                   "normalize");
    case MadeRows::By::silu_mul:
      return check(cuda::silu_mul(rows.x, rows.with, n, rows.y, stream_), "gate");
  }
}

void CudaBackend::rms_norm(const float* x, const float* weight, float eps, std::int64_t tokens,
                           std::int64_t dim, float* y) {
  defer({MadeRows::By::rms_norm, x, weight, nullptr, eps, dim, y}, tokens * dim);
}

void CudaBackend::layer_norm(const float* x, const float* weight, const float* bias, float eps,
                             std::int64_t tokens, std::int64_t dim, float* y) {
  defer({MadeRows::By::layer_norm, x, weight, bias, eps, dim, y}, tokens * dim);
}

void CudaBackend::silu_mul(const float* gate, const float* up, std::int64_t n, float* y) {
  defer({MadeRows::By::silu_mul, gate, up, nullptr, 0, 0, y}, n);
}

void CudaBackend::rope(float* x, const float* cos, const float* sin, std::int64_t tokens,
                       std::int64_t heads, std::int64_t head_dim, bool interleaved) {
  make_rows();
  check(cuda::rope(x, cos, sin, tokens, heads, head_dim, interleaved, stream_), "rotate heads");
}

void CudaBackend::store_kv(const KvLayer& kv, const float* k, const float* v) {
  make_rows();
  check(cuda::store_kv(kv, places_, k, v, stream_), "store keys and values");
}

void CudaBackend::rope_and_store_kv(const KvLayer& kv, const float* cos, const float* sin,
                                    std::int64_t /*tokens*/, std::int64_t heads, bool interleaved,
                                    float* q, float* k, const float* v) {
  make_rows();
  check(cuda::rope_and_store_kv(kv, places_, cos, sin, heads, interleaved, q, k, v, stream_),
        "rotate heads and store keys and values");
}

void CudaBackend::attention(const KvLayer& kv, const float* q, std::int64_t heads, float scale,
                            float* out) {
  make_rows();
  const std::size_t bytes = attention_scratch(places_.tokens, heads, kv.head_dim, places_.stride);
  auto* memory = scratch<std::byte>(attention_, bytes);
  check(cuda::attention(kv, places_, q, heads, scale, out, memory, stream_), "attend");
}

void CudaBackend::relu(float* x, std::int64_t n) {
  make_rows();
  check(cuda::relu(x, n, stream_), "rectify");
}

void CudaBackend::gather_rows(const float* x, const std::int32_t* rows, std::int64_t n,
                              std::int64_t dim, float* y) {
  make_rows();
  check(cuda::gather_rows(x, rows, n, dim, y, stream_), "gather rows");
}

void CudaBackend::nll(const float* logits, std::int64_t vocab,
                      std::span<const std::int32_t> targets, double* nll) {
  make_rows();
  auto* to = scratch<std::int32_t>(targets_, targets.size());
  to_device(to, targets.data(), targets.size_bytes());
  auto* found = scratch<double>(nll_, targets.size());
  check(cuda::nll(logits, vocab, to, static_cast<std::int64_t>(targets.size()), found, stream_),
        "score tokens");
  to_host(nll, found, targets.size() * sizeof(double));
}

bool CudaBackend::top_k(const float* logits, std::int64_t vocab, std::int64_t rows, int k,
                        TopLogit* best) {
  make_rows();
  const auto n = static_cast<std::size_t>(rows * k);
  auto* found = scratch<TopLogit>(top_, n);
  check(cuda::top_k(logits, vocab, rows, k, found, stream_), "find the best logits");
  to_host(best, found, n * sizeof(TopLogit));
  return true;
}

}  // namespace tenfold::cuda
