// What the kernels compute, a line of the output for each: built once with one vector of sixteen
// and once with two of eight, it must print the same (../widths.rs). Products are plain loops here,
// so that the ways of bfloat16 run on any processor.
#include "../../shim/attention_kernel.h"
#include "../../shim/blocks.h"
#include "../../shim/gelu_kernel.h"
#include "../../shim/layers_kernel.h"
#include "../../shim/norm_kernel.h"
#include "../../shim/pack_kernel.h"
#include "../../shim/residual_kernel.h"
#include "../../shim/sums_kernel.h"
#include "../../shim/weight_gradient_kernel.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <limits>

using quarry::Bf16;

namespace {

float value(float x) { return x; }
float value(Bf16 x) { return quarry::bits_of<float>(static_cast<uint32_t>(x) << 16); }

// C (+)= A B, with two rows of B interleaved in bf16.
template <class E>
void multiply(
    int64_t m, int64_t n, int64_t k, int64_t a_stride, int64_t b_stride, int64_t c_stride, bool add,
    const E* a, const E* b, float* c) {
  constexpr int64_t TOGETHER = sizeof(float) / sizeof(E);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = add ? c[i * c_stride + j] : 0.0f;
      for (int64_t l = 0; l < k; ++l) {
        const E* row = b + l / TOGETHER * TOGETHER * b_stride + l % TOGETHER;
        sum += static_cast<double>(value(a[i * a_stride + l])) * value(row[j * TOGETHER]);
      }
      c[i * c_stride + j] = static_cast<float>(sum);
    }
}

}  // namespace

namespace at::native::cpublas {

void brgemm(
    int64_t m, int64_t n, int64_t k, int64_t a_stride, int64_t b_stride, int64_t c_stride, const bool add,
    const float* a, const float* b, float* c, bool) {
  multiply(m, n, k, a_stride, b_stride, c_stride, add, a, b, c);
}

void brgemm(
    int64_t m, int64_t n, int64_t k, int64_t a_stride, int64_t b_stride, int64_t c_stride, const bool add,
    const at::BFloat16* a, const at::BFloat16* b, float* c, bool) {
  multiply(
      m, n, k, a_stride, b_stride, c_stride, add, reinterpret_cast<const Bf16*>(a),
      reinterpret_cast<const Bf16*>(b), c);
}

void brgemm_release(bool) {}

}  // namespace at::native::cpublas

namespace {

template <class E>
struct Kind;
template <>
struct Kind<float> {
  static constexpr const char* NAME = "f32";
  static float of(float x) { return x; }
};
template <>
struct Kind<Bf16> {
  static constexpr const char* NAME = "bf16";
  static Bf16 of(float x) { return static_cast<Bf16>(quarry::bits_of<uint32_t>(x) >> 16); }
};

// Numbers between -size and size, the same in every run.
template <class E>
std::vector<E> numbers(int64_t count, float size = 1.0f) {
  static uint64_t state = 1;
  std::vector<E> all(count);
  for (E& x : all) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x = Kind<E>::of(size * (static_cast<float>(state >> 40) / (1 << 23) - 1.0f));
  }
  return all;
}

// A line with the sum of the magnitudes, and a digest of the bits (FNV-1a).
template <class R, class E = R>
void show(const char* name, const std::vector<R>& found, const E* = nullptr) {
  uint64_t digest = 14695981039346656037u;
  double size = 0;
  for (const R x : found) {
    const bool number = !std::isnan(value(x));
    char bytes[sizeof(R)] = {1};  // whatever kind of no number
    if (number) memcpy(bytes, &x, sizeof x);
    for (const char byte : bytes) digest = (digest ^ static_cast<unsigned char>(byte)) * 1099511628211u;
    if (std::isfinite(value(x))) size += std::fabs(value(x));
  }
  std::printf("%s %s: %g %016" PRIx64 "\n", name, Kind<E>::NAME, size, digest);
}

// Numbers that rounding, comparing and exponents go wrong with.
template <class E>
void with_extremes(std::vector<E>& all) {
  constexpr float INF = std::numeric_limits<float>::infinity(), NAN_ = std::numeric_limits<float>::quiet_NaN();
  size_t i = 3;
  for (const float x : {0.0f, -0.0f, 4.25f, -4.25f, 30.0f, -30.0f, 1e38f, -1e38f, 1e-40f, INF, -INF, NAN_})
    all[i += 2] = Kind<E>::of(x);
}

template <class E>
void activations() {
  for (const bool tanh : {false, true}) {
    auto x = numbers<E>(213, 6.0f);
    with_extremes(x);
    std::vector<E> y(x.size()), slope = numbers<E>(213);
    quarry::gelu(x.data(), 213, tanh, y.data());
    show("gelu", y);
    quarry::gelu_backward(x.data(), 213, tanh, y.data(), slope.data());
    show("gelu backward", y);
    show("gelu slope", slope);
  }
}

template <class E>
void norms() {
  for (const int64_t width : {10, 64, 75}) {
    const int64_t rows = 7;
    const auto x = numbers<E>(rows * width, 3.0f), y = numbers<E>(rows * width), grad = numbers<E>(rows * width);
    const auto weight = numbers<float>(width), bias = numbers<float>(width);
    std::vector<E> out(rows * width), z(out), dx(out), dy(out);
    quarry::add_norm(x.data(), y.data(), weight.data(), bias.data(), 1e-12f, rows, width, out.data());
    show("norm", out);
    std::vector<float> statistics(2 * rows), scales(2 * width);
    for (const uint32_t below : {1u << 29, 0u}) {
      const quarry::Drop drop{0x9e3779b97f4a7c15u, below, 8.0f / 7.0f};
      quarry::residual_norm(
          x.data(), y.data(), weight.data(), bias.data(), 1e-12f, drop, 0, rows, width, z.data(),
          statistics.data(), out.data());
      show("residual", out);
      show("residual sums", z);
      show<float, E>("residual statistics", statistics);
      quarry::residual_norm_backward(
          z.data(), statistics.data(), weight.data(), grad.data(), drop, 0, rows, width, dx.data(),
          below > 0 ? dy.data() : nullptr, scales.data());
      show("residual dx", dx);
      show("residual dy", dy);
      show<float, E>("residual scales", scales);
    }
    std::vector<float> sums(width);
    quarry::column_sums(x.data(), rows, width, 0, width, sums.data());
    show<float, E>("column sums", sums);
  }
}

template <class E>
void attention() {
  for (const int64_t length : {1, 17, 45})
    for (const int64_t d : {32, 70}) {
      const int64_t stride = 3 * d;
      const auto qkv = numbers<E>(length * stride, 2.0f), grad = numbers<E>(length * d);
      const quarry::Head<E> head{qkv.data(), qkv.data() + d, qkv.data() + 2 * d, stride, length, d};
      std::vector<E> out(length * d), slopes(length * stride);
      std::vector<float> log_sums(length);
      quarry::attend(head, length, out.data(), d, log_sums.data());
      show("attention", out);
      show<float, E>("attention sums", log_sums);
      quarry::attend_backward(
          head, out.data(), grad.data(), d, log_sums.data(), slopes.data(), slopes.data() + d,
          slopes.data() + 2 * d);
      show("attention slopes", slopes);
    }
}

// A layer's weights, packed and not.
template <class E>
struct Weight {
  std::vector<E> packed;
  std::vector<float> bias;
  int64_t out, in;
  Weight(int64_t out, int64_t in, int64_t part)
      : packed(out * in), bias(numbers<float>(out, 0.1f)), out(out), in(in) {
    const auto plain = numbers<E>(out * in, 2.0f / std::sqrt(static_cast<float>(in)));
    quarry::pack(plain.data(), out, in, part, packed.data());
  }
  quarry::Packed<E> get() const { return {packed.data(), bias.data(), out, in}; }
};

template <class E>
void layers() {
  // More rows than a branch takes together.
  const int64_t h = 96, heads = 3, inner = 400, lengths[] = {1, 7, 333, 201}, count = 4, tokens = 542;
  const int64_t rows = quarry::round_up(tokens, quarry::FILLED);
  const Weight<E> projections(3 * h, h, h / heads), output(h, h, h), first(inner, h, 192), last(h, inner, h);
  const auto weight = numbers<float>(h), bias = numbers<float>(h);
  const quarry::LayerNorm norm{weight.data(), bias.data(), 1e-12f};
  const quarry::Layer<E> layer{projections.get(), output.get(), norm, first.get(), last.get(), norm};
  for (const bool tanh : {false, true}) {
    auto x = numbers<E>(rows * h);
    std::fill(x.begin() + tokens * h, x.end(), E(0));
    std::vector<E> context(quarry::FILLED * h);
    const quarry::Form form{heads, tanh};
    quarry::attend_first(layer, form, lengths, count, rows, x.data(), x.data(), context.data());
    show("first tokens", context);
    quarry::through(layer, form, lengths, count, rows, x.data());
    show("layer", x);
  }
}

template <class E>
void weight_gradients() {
  // More tokens than a product sums up, and a part of as many as it takes.
  const int64_t tokens = 1050, in = 144, out = 90;
  const auto x = numbers<E>(tokens * in), dy = numbers<E>(tokens * out);
  std::vector<E> packed(quarry::packed_size(tokens, in));
  auto dw = numbers<float>(out * in);
  quarry::pack_input(x.data(), tokens, in, 0, in, packed.data());
  quarry::in_blocks(0, out, [&](int64_t row, int64_t rows) {
    quarry::add_weight_gradient(
        dy.data() + row, out, tokens, rows, packed.data(), in, dw.data() + row * in);
  });
  show<float, E>("weight gradient", dw);
}

template <class E>
void all() {
  activations<E>();
  norms<E>();
  attention<E>();
  layers<E>();
  weight_gradients<E>();
}

}  // namespace

int main() {
  std::printf("%" PRId64 " columns\n", quarry::columns());
  all<float>();
  all<Bf16>();
}
