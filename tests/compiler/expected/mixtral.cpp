// small mixtral, compiled by pagedc 0.0.0 for x86-64-v4.
//
// One step computes `num_tokens` tokens of several sequences. Every thread of the team runs `forward`; a barrier ends each
// call. Buffers are rows of one token each, at fixed places of one arena; weights are packed for the kernels that read them.
// To follow a token, start at `forward` at the end of this file.

#include <algorithm>
#include <new>
#include <vector>

#include "kernels/abi.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rows.h"
#include "kernels/sampler.h"
#include "kernels/team.h"

using namespace pagedc;

namespace {

constexpr int64_t TOKEN_BYTES = 3648;  // of the arena, per token
constexpr int64_t ROW_BYTES = 1152;  // per sampled row
constexpr int VOCAB_SIZE = 211;
constexpr int NUM_WEIGHTS = 25;
constexpr int NUM_ATTENTION_LAYERS = 3;
using KV = float;

struct Attention0 {
  static constexpr int num_heads = 4, num_kv_heads = 2;
  static constexpr int head_dim = 16, v_head_dim = 16;
  static constexpr float scale = 0.25f, softcap = 0.0f;
  static constexpr int window = 0, chunk = 0;
  static constexpr bool has_sinks = false, causal = true;
};
static_assert(kv_bytes_per_block<Attention0, KV>() == 4096, "the manifest counts on it");

// Bytes of a KV block of each layer.
constexpr int64_t BLOCK_BYTES[] = {4096, 4096, 4096};

struct Model {
  Model(const pagedc_options& options, const void* const* weights)
      : team(options.num_threads), options(options), weights(weights, weights + NUM_WEIGHTS) {}

  Team team;
  const pagedc_options options;
  const std::vector<const void*> weights;
  Memory tokens, rows, scratch;
  Memory kv_cache[NUM_ATTENTION_LAYERS > 0 ? NUM_ATTENTION_LAYERS : 1];
};

// What one thread sees of one step.
struct Step {
  const Model& model;
  const pagedc_batch& batch;
  Worker& worker;
  const int64_t num_tokens, num_rows;

  // The buffer `offset` bytes a token into the arena: small steps stay close together in the caches.
  template <class V>
  V* token(int64_t offset) const {
    return reinterpret_cast<V*>(model.tokens.data() + offset * num_tokens);
  }
  template <class V>
  V* row(int64_t offset) const {
    return reinterpret_cast<V*>(model.rows.data() + offset * num_rows);
  }
  const void* weight(int index) const { return model.weights[index]; }
  template <class V>
  const V* values(int index) const {
    return static_cast<const V*>(model.weights[index]);
  }
};

// Row kernels: all between two anchors, for one token.

// model.rotary_emb
static inline void rows_0(const int32_t* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, float* out0, float* out1) {
#pragma omp simd
  for (int i1 = 0; i1 < 8; ++i1) {
    out0[i1] = math::cos((static_cast<float>(in0[0]) * in1[i1]));
  }
#pragma omp simd
  for (int i1 = 0; i1 < 8; ++i1) {
    out0[i1 + 8] = math::cos((static_cast<float>(in0[0]) * in1[i1]));
  }
#pragma omp simd
  for (int i1 = 0; i1 < 8; ++i1) {
    out1[i1] = math::sin((static_cast<float>(in0[0]) * in1[i1]));
  }
#pragma omp simd
  for (int i1 = 0; i1 < 8; ++i1) {
    out1[i1 + 8] = math::sin((static_cast<float>(in0[0]) * in1[i1]));
  }
}

// model.layers.*.input_layernorm
static inline void rows_1(const float* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, float* out0) {
  alignas(64) float v0[1];
  alignas(64) float v1[1];
  for (int i = 0; i < 1; ++i) v0[i] = 0;
  {
    float acc = v0[0];
#pragma omp simd reduction(+:acc)
    for (int i1 = 0; i1 < 64; ++i1) {
      acc += (in0[i1] * in0[i1]);
    }
    v0[0] = acc;
  }
  v1[0] = (1.0f / sqrtf(((v0[0] * 0.015625f) + 1e-05f)));
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out0[i1] = (in1[i1] * (in0[i1] * v1[0]));
  }
}

// model.layers.*.self_attn
static inline void rows_2(const float* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, const float* PAGEDC_RESTRICT in2, float* out0, float* out1) {
  for (int i1 = 0; i1 < 4; ++i1) {
#pragma omp simd
    for (int i2 = 0; i2 < 8; ++i2) {
      out0[16 * i1 + i2] = ((in0[16 * i1 + i2] * in1[i2]) + ((-in0[16 * i1 + i2 + 8]) * in2[i2]));
    }
  }
  for (int i1 = 0; i1 < 4; ++i1) {
#pragma omp simd
    for (int i2 = 0; i2 < 8; ++i2) {
      out0[16 * i1 + i2 + 8] = ((in0[16 * i1 + i2 + 8] * in1[i2 + 8]) + (in0[16 * i1 + i2] * in2[i2 + 8]));
    }
  }
  for (int i1 = 0; i1 < 2; ++i1) {
#pragma omp simd
    for (int i2 = 0; i2 < 8; ++i2) {
      out1[16 * i1 + i2] = ((in0[16 * i1 + i2 + 64] * in1[i2]) + ((-in0[16 * i1 + i2 + 72]) * in2[i2]));
    }
  }
  for (int i1 = 0; i1 < 2; ++i1) {
#pragma omp simd
    for (int i2 = 0; i2 < 8; ++i2) {
      out1[16 * i1 + i2 + 8] = ((in0[16 * i1 + i2 + 72] * in1[i2 + 8]) + (in0[16 * i1 + i2 + 64] * in2[i2 + 8]));
    }
  }
}

// model.layers.*, model.layers.*.post_attention_layernorm
static inline void rows_3(const float* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, const float* PAGEDC_RESTRICT in2, float* out0, float* out1) {
  alignas(64) float v0[1];
  alignas(64) float v1[1];
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out0[i1] = (in0[i1] + in1[i1]);
  }
  for (int i = 0; i < 1; ++i) v0[i] = 0;
  {
    float acc = v0[0];
#pragma omp simd reduction(+:acc)
    for (int i1 = 0; i1 < 64; ++i1) {
      acc += (out0[i1] * out0[i1]);
    }
    v0[0] = acc;
  }
  v1[0] = (1.0f / sqrtf(((v0[0] * 0.015625f) + 1e-05f)));
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out1[i1] = (in2[i1] * (out0[i1] * v1[0]));
  }
}

// model.layers.*.mlp.gate
static inline void rows_4(const float* PAGEDC_RESTRICT in0, float* out0, int32_t* out1) {
  alignas(64) float v0[1];
  alignas(64) float v1[6];
  alignas(64) float v2[1];
  for (int i = 0; i < 1; ++i) v0[i] = -INFINITY;
  {
    float acc = v0[0];
#pragma omp simd reduction(max:acc)
    for (int i0 = 0; i0 < 6; ++i0) {
      acc = maximum(acc, in0[i0]);
    }
    v0[0] = acc;
  }
#pragma omp simd
  for (int i0 = 0; i0 < 6; ++i0) {
    v1[i0] = math::exp((in0[i0] - v0[0]));
  }
  for (int i = 0; i < 1; ++i) v2[i] = 0;
  {
    float acc = v2[0];
#pragma omp simd reduction(+:acc)
    for (int i0 = 0; i0 < 6; ++i0) {
      acc += v1[i0];
    }
    v2[0] = acc;
  }
#pragma omp simd
  for (int i0 = 0; i0 < 6; ++i0) {
    out0[i0] = (v1[i0] / v2[0]);
  }
  topk_index<6, 2>(out0 + 0, out1 + 0);
}

// model.layers.*.mlp.experts.act_fn, model.layers.*.mlp.experts
static inline void rows_5(const float* PAGEDC_RESTRICT in0, float* out0) {
  for (int i0 = 0; i0 < 2; ++i0) {
#pragma omp simd
    for (int i1 = 0; i1 < 96; ++i1) {
      out0[96 * i0 + i1] = ((in0[192 * i0 + i1] * math::sigmoid(in0[192 * i0 + i1])) * in0[192 * i0 + i1 + 96]);
    }
  }
}

// model.layers.*.mlp.gate, model.layers.*.mlp.experts, model.layers.*, model.layers.*.input_layernorm
static inline void rows_6(const int32_t* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, const float* PAGEDC_RESTRICT in2, const float* PAGEDC_RESTRICT in3, const float* PAGEDC_RESTRICT in4, float* out0, float* out1) {
  alignas(64) float v0[1];
  alignas(64) float v1[2];
  alignas(64) float v2[64];
  alignas(64) float v3[1];
  alignas(64) float v4[1];
  for (int i = 0; i < 1; ++i) v0[i] = 0;
  {
    float acc = v0[0];
#pragma omp simd reduction(+:acc)
    for (int i0 = 0; i0 < 2; ++i0) {
      acc += in1[0 + 1 * in0[i0]];
    }
    v0[0] = acc;
  }
#pragma omp simd
  for (int i0 = 0; i0 < 2; ++i0) {
    v1[i0] = (in1[0 + 1 * in0[i0]] / v0[0]);
  }
  for (int i = 0; i < 64; ++i) v2[i] = 0;
  for (int i1 = 0; i1 < 64; ++i1) {
    float acc = v2[i1];
#pragma omp simd reduction(+:acc)
    for (int i0 = 0; i0 < 2; ++i0) {
      acc += (in2[64 * i0 + i1] * v1[i0]);
    }
    v2[i1] = acc;
  }
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out0[i1] = (in3[i1] + v2[i1]);
  }
  for (int i = 0; i < 1; ++i) v3[i] = 0;
  {
    float acc = v3[0];
#pragma omp simd reduction(+:acc)
    for (int i1 = 0; i1 < 64; ++i1) {
      acc += (out0[i1] * out0[i1]);
    }
    v3[0] = acc;
  }
  v4[0] = (1.0f / sqrtf(((v3[0] * 0.015625f) + 1e-05f)));
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out1[i1] = (in4[i1] * (out0[i1] * v4[0]));
  }
}

// model.layers.*.mlp.gate, model.layers.*.mlp.experts, model.layers.*, model.norm
static inline void rows_7(const int32_t* PAGEDC_RESTRICT in0, const float* PAGEDC_RESTRICT in1, const float* PAGEDC_RESTRICT in2, const float* PAGEDC_RESTRICT in3, const float* PAGEDC_RESTRICT in4, float* out0) {
  alignas(64) float v0[1];
  alignas(64) float v1[2];
  alignas(64) float v2[64];
  alignas(64) float v3[1];
  alignas(64) float v4[1];
  for (int i = 0; i < 1; ++i) v0[i] = 0;
  {
    float acc = v0[0];
#pragma omp simd reduction(+:acc)
    for (int i0 = 0; i0 < 2; ++i0) {
      acc += in1[0 + 1 * in0[i0]];
    }
    v0[0] = acc;
  }
#pragma omp simd
  for (int i0 = 0; i0 < 2; ++i0) {
    v1[i0] = (in1[0 + 1 * in0[i0]] / v0[0]);
  }
  for (int i = 0; i < 64; ++i) v2[i] = 0;
  for (int i1 = 0; i1 < 64; ++i1) {
    float acc = v2[i1];
#pragma omp simd reduction(+:acc)
    for (int i0 = 0; i0 < 2; ++i0) {
      acc += (in2[64 * i0 + i1] * v1[i0]);
    }
    v2[i1] = acc;
  }
  for (int i = 0; i < 1; ++i) v3[i] = 0;
  {
    float acc = v3[0];
#pragma omp simd reduction(+:acc)
    for (int i1 = 0; i1 < 64; ++i1) {
      const float t0 = (in3[i1] + v2[i1]);
      acc += (t0 * t0);
    }
    v3[0] = acc;
  }
  v4[0] = (1.0f / sqrtf(((v3[0] * 0.015625f) + 1e-05f)));
#pragma omp simd
  for (int i1 = 0; i1 < 64; ++i1) {
    out0[i1] = (in4[i1] * ((in3[i1] + v2[i1]) * v4[0]));
  }
}

// What differs between the iterations of `layer`.
struct Layer {
  int in_input_layernorm_mul;  // place of a buffer
  int q_proj_k_proj_v_proj;  // weight: model.layers.*.self_attn.q_proj.weight|model.layers.*.self_attn.k_proj.weight|model.layers.*.self_at
  int out_q_proj_k_proj_v_proj;  // place of a buffer
  int out_self_attn_add;  // place of a buffer
  int out_self_attn_add_2;  // place of a buffer
  int out_self_attn_attention;  // place of a buffer
  int kv_cache;
  int o_proj;  // weight: model.layers.*.self_attn.o_proj.weight
  int out_o_proj;  // place of a buffer
  int in_embed_tokens;  // place of a buffer
  int post_attention_layernorm;  // weight: model.layers.*.post_attention_layernorm.weight
  int out_add;  // place of a buffer
  int out_post_attention_layernorm_mul;  // place of a buffer
  int gate;  // weight: model.layers.*.mlp.gate.weight
  int gate_up_proj;  // weight: model.layers.*.mlp.experts.gate_up_proj
  int out_experts;  // place of a buffer
  int out_experts_mul;  // place of a buffer
  int down_proj;  // weight: model.layers.*.mlp.experts.down_proj
  int out_experts_2;  // place of a buffer
  int input_layernorm;  // weight: model.layers.*.input_layernorm.weight
  int out_add_2;  // place of a buffer
  int out_input_layernorm_mul;  // place of a buffer
};
constexpr Layer LAYERS[] = {
    {384, 3, 640, 384, 1152, 1280, 0, 4, 384, 128, 5, 640, 896, 6, 7, 1152, 2688, 8, 896, 9, 320, 1408},
    {1408, 10, 576, 1088, 128, 1344, 1, 11, 576, 320, 12, 832, 1088, 13, 14, 1344, 2880, 15, 320, 16, 1088, 1344},
};

void layer(const Step& s, const Layer& layer) {
  // model.layers.*.self_attn.{q_proj|k_proj|v_proj}: linear [T, 64] → [T, 128]
  float* const input_layernorm_mul = s.token<float>(layer.in_input_layernorm_mul);
  float* const q_proj_k_proj_v_proj = s.token<float>(layer.out_q_proj_k_proj_v_proj);
  linear<F32, 128, 64>(s.worker, s.num_tokens, input_layernorm_mul, 64, s.weight(layer.q_proj_k_proj_v_proj), StoreRows<128>{q_proj_k_proj_v_proj});
  s.worker.barrier();
  // model.layers.*.self_attn: rows [T, 128], [T, 16], [T, 16] → [T, 64], [T, 32]
  float* const rotary_emb_cos = s.token<float>(0);
  float* const rotary_emb_sin = s.token<float>(64);
  float* const self_attn_add = s.token<float>(layer.out_self_attn_add);
  float* const self_attn_add_2 = s.token<float>(layer.out_self_attn_add_2);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_2(q_proj_k_proj_v_proj + t * 128, rotary_emb_cos + t * 16, rotary_emb_sin + t * 16, self_attn_add + t * 64, self_attn_add_2 + t * 32);
  });
  s.worker.barrier();
  // model.layers.*.self_attn: attention [T, 64], [T, 32], [T, 128] → [T, 64]
  float* const self_attn_attention = s.token<float>(layer.out_self_attn_attention);
  attention<Attention0, KV, float>(s.worker, s.batch, self_attn_add, 64, self_attn_add_2, 32, q_proj_k_proj_v_proj + 96, 128, nullptr,
      s.model.kv_cache[layer.kv_cache].data(), s.model.scratch.data(), self_attn_attention, 64);
  s.worker.barrier();
  // model.layers.*.self_attn.o_proj: linear [T, 64] → [T, 64]
  float* const o_proj = s.token<float>(layer.out_o_proj);
  linear<F32, 64, 64>(s.worker, s.num_tokens, self_attn_attention, 64, s.weight(layer.o_proj), StoreRows<64>{o_proj});
  s.worker.barrier();
  // model.layers.*, model.layers.*.post_attention_layernorm: rows [T, 64], [T, 64] → [T, 64], [T, 64]
  float* const embed_tokens = s.token<float>(layer.in_embed_tokens);
  float* const add = s.token<float>(layer.out_add);
  float* const post_attention_layernorm_mul = s.token<float>(layer.out_post_attention_layernorm_mul);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_3(embed_tokens + t * 64, o_proj + t * 64, s.values<float>(layer.post_attention_layernorm), add + t * 64, post_attention_layernorm_mul + t * 64);
  });
  s.worker.barrier();
  // model.layers.*.mlp.gate: linear [T, 64] → [T, 6]
  float* const gate = s.token<float>(128);
  linear<F32, 6, 64>(s.worker, s.num_tokens, post_attention_layernorm_mul, 64, s.weight(layer.gate), StoreRows<6>{gate});
  s.worker.barrier();
  // model.layers.*.mlp.gate: rows [T, 6] → [T, 6], [T, 2]
  float* const gate_div = s.token<float>(192);
  int32_t* const gate_topk_index = s.token<int32_t>(256);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_4(gate + t * 6, gate_div + t * 6, gate_topk_index + t * 2);
  });
  s.worker.barrier();
  // model.layers.*.mlp.experts: grouped_linear [T, 64], [T, 2] → [T, 384]
  float* const experts = s.token<float>(layer.out_experts);
  grouped_linear<F32, 6, 192, 64>(s.worker, s.num_tokens, 2, gate_topk_index, post_attention_layernorm_mul, 64, 0,
      s.weight(layer.gate_up_proj), s.model.scratch.data(), StoreRows<192>{experts});
  s.worker.barrier();
  // model.layers.*.mlp.experts.act_fn, model.layers.*.mlp.experts: rows [T, 384] → [T, 192]
  float* const experts_mul = s.token<float>(layer.out_experts_mul);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_5(experts + t * 384, experts_mul + t * 192);
  });
  s.worker.barrier();
  // model.layers.*.mlp.experts: grouped_linear [T, 192], [T, 2] → [T, 128]
  float* const experts_2 = s.token<float>(layer.out_experts_2);
  grouped_linear<F32, 6, 64, 96>(s.worker, s.num_tokens, 2, gate_topk_index, experts_mul, 192, 96,
      s.weight(layer.down_proj), s.model.scratch.data(), StoreRows<64>{experts_2});
  s.worker.barrier();
  // model.layers.*.mlp.gate, model.layers.*.mlp.experts, model.layers.*, model.layers.*.input_layernorm: rows [T, 2], [T, 6], [T, 128], [T, 64] → [T, 64], [T, 64]
  float* const add_2 = s.token<float>(layer.out_add_2);
  float* const input_layernorm_mul_2 = s.token<float>(layer.out_input_layernorm_mul);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_6(gate_topk_index + t * 2, gate_div + t * 6, experts_2 + t * 128, add + t * 64, s.values<float>(layer.input_layernorm), add_2 + t * 64, input_layernorm_mul_2 + t * 64);
  });
  s.worker.barrier();
}

void forward(const Step& s) {
  // model.rotary_emb: rows [T, 1] → [T, 16], [T, 16]
  float* const rotary_emb_cos = s.token<float>(0);
  float* const rotary_emb_sin = s.token<float>(64);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_0(s.batch.positions + t * 1, s.values<float>(0), rotary_emb_cos + t * 16, rotary_emb_sin + t * 16);
  });
  s.worker.barrier();
  // model.embed_tokens: embedding [T, 1] → [T, 64]
  float* const embed_tokens = s.token<float>(128);
  {
    const int64_t count = s.num_tokens * 1;
    embedding<F32, 211, 64>(count * s.worker.rank / s.worker.size, count * (s.worker.rank + 1) / s.worker.size, s.batch.token_ids, s.weight(1), embed_tokens, 64);
  }
  s.worker.barrier();
  // model.layers.0.input_layernorm: rows [T, 64] → [T, 64]
  float* const input_layernorm_mul = s.token<float>(384);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_1(embed_tokens + t * 64, s.values<float>(2), input_layernorm_mul + t * 64);
  });
  s.worker.barrier();
  for (const Layer& row : LAYERS) layer(s, row);
  // model.layers.2.self_attn.{q_proj|k_proj|v_proj}: linear [T, 64] → [T, 128]
  float* const input_layernorm_mul_2 = s.token<float>(1344);
  float* const q_proj_k_proj_v_proj = s.token<float>(128);
  linear<F32, 128, 64>(s.worker, s.num_tokens, input_layernorm_mul_2, 64, s.weight(17), StoreRows<128>{q_proj_k_proj_v_proj});
  s.worker.barrier();
  // model.layers.2.self_attn: rows [T, 128], [T, 16], [T, 16] → [T, 64], [T, 32]
  float* const self_attn_add = s.token<float>(640);
  float* const self_attn_add_2 = s.token<float>(896);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_2(q_proj_k_proj_v_proj + t * 128, rotary_emb_cos + t * 16, rotary_emb_sin + t * 16, self_attn_add + t * 64, self_attn_add_2 + t * 32);
  });
  s.worker.barrier();
  // model.layers.2.self_attn: attention [T, 64], [T, 32], [T, 128] → [T, 64]
  float* const self_attn_attention = s.token<float>(1344);
  attention<Attention0, KV, float>(s.worker, s.batch, self_attn_add, 64, self_attn_add_2, 32, q_proj_k_proj_v_proj + 96, 128, nullptr,
      s.model.kv_cache[2].data(), s.model.scratch.data(), self_attn_attention, 64);
  s.worker.barrier();
  // model.layers.2.self_attn.o_proj: linear [T, 64] → [T, 64]
  float* const o_proj = s.token<float>(0);
  linear<F32, 64, 64>(s.worker, s.num_tokens, self_attn_attention, 64, s.weight(18), StoreRows<64>{o_proj});
  s.worker.barrier();
  // model.layers.2, model.layers.2.post_attention_layernorm: rows [T, 64], [T, 64] → [T, 64], [T, 64]
  float* const add = s.token<float>(1088);
  float* const add_2 = s.token<float>(256);
  float* const post_attention_layernorm_mul = s.token<float>(512);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_3(add + t * 64, o_proj + t * 64, s.values<float>(19), add_2 + t * 64, post_attention_layernorm_mul + t * 64);
  });
  s.worker.barrier();
  // model.layers.2.mlp.gate: linear [T, 64] → [T, 6]
  float* const gate = s.token<float>(0);
  linear<F32, 6, 64>(s.worker, s.num_tokens, post_attention_layernorm_mul, 64, s.weight(20), StoreRows<6>{gate});
  s.worker.barrier();
  // model.layers.2.mlp.gate: rows [T, 6] → [T, 6], [T, 2]
  float* const gate_div = s.token<float>(64);
  int32_t* const gate_topk_index = s.token<int32_t>(128);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_4(gate + t * 6, gate_div + t * 6, gate_topk_index + t * 2);
  });
  s.worker.barrier();
  // model.layers.2.mlp.experts: grouped_linear [T, 64], [T, 2] → [T, 384]
  float* const experts = s.token<float>(768);
  grouped_linear<F32, 6, 192, 64>(s.worker, s.num_tokens, 2, gate_topk_index, post_attention_layernorm_mul, 64, 0,
      s.weight(21), s.model.scratch.data(), StoreRows<192>{experts});
  s.worker.barrier();
  // model.layers.2.mlp.experts.act_fn, model.layers.2.mlp.experts: rows [T, 384] → [T, 192]
  float* const experts_mul = s.token<float>(2304);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_5(experts + t * 384, experts_mul + t * 192);
  });
  s.worker.barrier();
  // model.layers.2.mlp.experts: grouped_linear [T, 192], [T, 2] → [T, 128]
  float* const experts_2 = s.token<float>(512);
  grouped_linear<F32, 6, 64, 96>(s.worker, s.num_tokens, 2, gate_topk_index, experts_mul, 192, 96,
      s.weight(22), s.model.scratch.data(), StoreRows<64>{experts_2});
  s.worker.barrier();
  // model.layers.2.mlp.gate, model.layers.2.mlp.experts, model.layers.2, model.norm: rows [T, 2], [T, 6], [T, 128], [T, 64] → [T, 64]
  float* const norm_mul = s.token<float>(1024);
  for_tokens(s.worker, s.num_tokens, [&](int64_t t) {
    rows_7(gate_topk_index + t * 2, gate_div + t * 6, experts_2 + t * 128, add_2 + t * 64, s.values<float>(23), norm_mul + t * 64);
  });
  s.worker.barrier();
  if (s.num_rows == 0) return;
  // model.norm: select_rows [T, 64] → [R, 64]
  float* const norm_select_rows = s.row<float>(0);
  select_rows(s.worker, s.batch, norm_mul, 64, norm_select_rows);
  s.worker.barrier();
  if (s.batch.hidden_out) {  // hidden states are wanted too, or instead of tokens
    widen_rows(s.worker, s.batch, norm_select_rows, 64, 64, s.batch.hidden_out);
    if (s.batch.skip_head) return;
  }
  // lm_head: linear [R, 64] → [R, 211]
  float* const lm_head = s.row<float>(256);
  linear<F32, 211, 64>(s.worker, s.num_rows, norm_select_rows, 64, s.weight(24), StoreRows<211>{lm_head});
  s.worker.barrier();
  // the next token of each row
  sample<VOCAB_SIZE>(s.worker, s.batch, lm_head, VOCAB_SIZE, s.model.scratch.data());
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int32_t pagedc_abi_version(void) { return PAGEDC_ABI_VERSION; }

__attribute__((visibility("default"))) void* pagedc_create(const pagedc_options* options, const void* const* weights,
                                                           int32_t num_weights) {
  if (num_weights != NUM_WEIGHTS) return nullptr;
  Model* model = new (std::nothrow) Model(*options, weights);
  if (model == nullptr) return nullptr;
  size_t scratch = sample_scratch_bytes<VOCAB_SIZE>(options->num_threads);
  scratch = std::max<size_t>(scratch, attention_scratch_bytes<Attention0, KV>(options->num_threads));
  scratch = std::max<size_t>(scratch, grouped_linear_scratch_bytes(6, 2, options->num_threads, options->max_num_tokens));
  bool ok = model->tokens.reserve(TOKEN_BYTES * options->max_num_tokens) && model->scratch.reserve(scratch) &&
            model->rows.reserve(ROW_BYTES * options->max_num_rows);
  for (int layer = 0; layer < NUM_ATTENTION_LAYERS; ++layer)
    ok = ok && model->kv_cache[layer].reserve(BLOCK_BYTES[layer] * options->num_blocks);
  if (ok) return model;
  delete model;
  return nullptr;
}

__attribute__((visibility("default"))) int32_t pagedc_step(void* handle, const pagedc_batch* batch) {
  Model& model = *static_cast<Model*>(handle);
  if (batch->num_tokens > model.options.max_num_tokens || batch->num_rows > model.options.max_num_rows) return -1;
  model.team.run([&](Worker& worker) {
    forward(Step{model, *batch, worker, batch->num_tokens, batch->num_rows});
  });
  return 0;
}

__attribute__((visibility("default"))) void pagedc_destroy(void* handle) { delete static_cast<Model*>(handle); }

}
