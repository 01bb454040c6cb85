// A layer of a transformer of the BERT family in inference, f32 or bfloat16: a few sequences go
// through all of it before the next, and a few hundred of their rows through a branch, so that
// neither what lies between its operations nor its weights come from memory each time.
#pragma once

#include "lanes.h"

namespace quarry {

// A linear layer whose weight [out, in] was packed.
template <class E>
struct Packed {
  const E* weight;
  const float* bias;
  int64_t out, in;
};

struct LayerNorm {
  const float *weight, *bias;
  float epsilon;
};

template <class E>
struct Layer {
  // [3h, h]: queries, keys and values, packed a head of one of them at a time.
  Packed<E> projections;
  Packed<E> output;
  LayerNorm attention_norm;
  Packed<E> inner, outer;
  LayerNorm norm;
};

// What all layers share.
struct Form {
  int64_t heads;
  bool tanh;  // the form of GELU
};

// Lays out each `part` of the rows of a weight [out, in] in blocks of as many as a product takes:
// with rows of the whole weight as far apart as they are wide, products of f32 ran at three
// quarters of this pace as soon as the weights of all layers did not fit the second cache. `in` is
// even.
template <class E>
void pack(const E* weight, int64_t out, int64_t in, int64_t part, E* to);

// Rows are filled up to a multiple of this: libtorch compiles a block product for each number of
// them, which takes a third of a millisecond.
constexpr int64_t FILLED = 4;

// Takes neighbouring sequences of `lengths` tokens through a layer: x [rows, h], of which those
// behind the tokens are filled up. Widths are multiples of LANE, that of a head is even.
template <class E>
void through(
    const Layer<E>& layer, const Form& form, const int64_t* lengths, int64_t count, int64_t rows, E* x);

// What attention of the first token of each of these sequences makes of them: context [count, h].
// `firsts` are those tokens' rows of x; as many are read as FILLED asks for.
template <class E>
void attend_first(
    const Layer<E>& layer, const Form& form, const int64_t* lengths, int64_t count, int64_t rows,
    const E* x, const E* firsts, E* context);

// The rest of a layer, behind attention: x and context [rows, h], rows a multiple of FILLED.
template <class E>
void behind_attention(const Layer<E>& layer, const Form& form, int64_t rows, const E* context, E* x);

}  // namespace quarry
