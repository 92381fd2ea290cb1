// The binary interface between an emitted model.so and whoever drives it: plain C, no pagedc type crosses it.
//
// A change here raises PAGEDC_ABI_VERSION; the manifest carries the number, and the runtime refuses another.
#pragma once

#include <stdint.h>

#define PAGEDC_ABI_VERSION 2

#ifdef __cplusplus
extern "C" {
#endif

// How to choose the next token of one row of logits.
typedef struct {
  float temperature;         // 0 = greedy
  float top_p;               // 1 = off
  float min_p;               // 0 = off
  float repetition_penalty;  // 1 = off; over prompt and completion tokens
  float presence_penalty;    // 0 = off; over completion tokens
  float frequency_penalty;   // 0 = off; over completion tokens
  int32_t top_k;             // 0 = off
  int32_t num_logprobs;      // -1 = none, 0 = the chosen token only, n = and the n most likely
  int32_t forced_token;      // -1 = sample; else this token is "chosen": its logprob is what is asked for
  int32_t mask_row;          // -1 = every token is allowed; else the row of allowed_tokens
  uint64_t seed;             // with counter, the key of the random number: the same wherever the row runs
  uint64_t counter;          // position of the token to be chosen
  int32_t history_start, history_end;  // this row's slice of history_tokens
  int32_t prompt_end;                  // history_tokens[history_start : prompt_end] is the prompt
  int32_t bias_start, bias_end;        // this row's slice of bias_tokens and bias_values
} pagedc_sampling;

// One step: num_tokens tokens of num_seqs sequences, flat, grouped by sequence in order.
typedef struct {
  int32_t num_tokens;         // T
  int32_t num_seqs;           // S
  int32_t num_rows;           // R rows of logits are wanted
  int32_t max_blocks;         // width of block_tables
  const int32_t* token_ids;   // [T]
  const int32_t* positions;   // [T]
  const int64_t* slot_mapping;      // [T] block * block_size + offset, -1 = padding: nothing is stored
  const int32_t* block_tables;      // [S, max_blocks]
  const int32_t* context_lens;      // [S] tokens in the cache once this step's are stored
  const int32_t* query_start_loc;   // [S + 1]
  const int32_t* state_slots;       // [S] where each sequence's state lies; one that starts at position 0 starts from zeros
  const int32_t* logits_rows;       // [R] indexes into the T tokens
  const pagedc_sampling* sampling;  // [R]
  const int32_t* history_tokens;
  const int32_t* bias_tokens;
  const float* bias_values;
  const uint32_t* allowed_tokens;   // [rows, ceil(vocab_size / 32)] bit set = allowed
  int32_t max_logprobs;       // width K of the two arrays below; 0 = none wanted by any row
  int32_t* token_ids_out;     // [R]
  float* logprobs_out;        // [R] of the chosen token, under the model's own distribution (before any processing)
  int32_t* top_ids_out;       // [R, K]
  float* top_logprobs_out;    // [R, K]
  float* logits_out;          // [R, vocab_size] the model's raw logits, or NULL
  float* hidden_out;          // [R, hidden_size] what the head reads, or NULL
  int32_t skip_head;          // with hidden_out: no logits, and nothing is chosen
} pagedc_batch;

typedef struct {
  int32_t num_threads;        // of the library's own pool, the caller's thread included
  int32_t max_num_tokens;     // the largest T a step will have; <= the compiled limit
  int32_t max_num_rows;       // the largest R
  int64_t num_blocks;         // of the KV cache
  int32_t num_state_slots;    // sequences that have state at one time
} pagedc_options;

// The number of this header the library was compiled with.
int32_t pagedc_abi_version(void);
// weights[i] points at the i-th tensor of the manifest's `weights` list, 64-byte aligned; it must outlive the handle.
// Returns NULL when memory is short.
void* pagedc_create(const pagedc_options* options, const void* const* weights, int32_t num_weights);
// Runs one step. Returns 0; -1 when the batch exceeds the options given at creation.
int32_t pagedc_step(void* handle, const pagedc_batch* batch);
void pagedc_destroy(void* handle);

#ifdef __cplusplus
}
#endif
