/* kern: the only door to arithmetic. Devices, buffers, an in-order queue, and the operations of a transformer.
 *
 * THE RULE. The result of a row depends on that row alone, and on its absolute position: never on how many rows come with it, on how keys
 * are paged, on chunking, packing, or the number of threads. So decode, chunked prefill and packed training give the same bits, and tests
 * use memcmp. Each reduction's order is fixed here:
 *   products    one fused-multiply-add chain per output, over depth ascending, starting at 0 (the weight gradient: over rows, from the old
 *               value). Forward products of bfloat16 factors: x is rounded to bfloat16 (nearest, even of two), and the chain goes over pairs
 *               of k ascending, of a pair the second first (an odd k ends with a zero), as the instruction vdpbf16ps does; a denormal that
 *               an operation takes or gives, judged after rounding to 24 bits, is the zero of its sign; which NaN a NaN is, is left open
 *   attention   scores: one FMA chain over the head dimension; softmax over keys 0..pos: maximum, then the sum in 16 lanes by key index mod
 *               16 combined by the fixed tree of cpu/vec.h; values: one FMA chain over keys ascending
 *   norms       16 lanes by index mod 16, fixed tree
 *   softmax over the vocabulary: parts of KERN_HEAD_PART ids from 0 on, each summed beside its own maximum in 16 lanes by id mod 16, fixed
 *               tree; then parts ascending, scaled to the row's maximum (kern_head_mass of scalar.h). A draw goes by the same parts
 *   sums of squares: parts of 4096 elements from 0 on, 16 lanes by index mod 16 and the fixed tree in each; then parts ascending
 *   weight gradients of norms, and of biases: rows in parts of KERN_PART_ROWS from the call's first; a part is one chain from 0 over its rows
 *               ascending (then heads ascending), and the parts are added in order to what was there
 * The CPU paths (AVX-512 with and without bfloat16, AVX2+FMA, portable with fmaf) follow the same definition and give the same bits as each
 * other. Another backend may fix another order, but then keeps to it everywhere. CUDA has these orders where factors are float32. Tensor
 * cores do products and attention of bfloat16 factors: the chain of a product takes 16 of depth at a time, ascending from 0 on (weight
 * gradient: 16 rows, from the call's first), in float32; how the card adds within 16 is its own.
 *
 * Factors. What products and attention multiply, by an argument or the shape of the heads. KERN_F32: what they are given. KERN_BF16, where
 * weights are bfloat16: the nearest bfloat16 of it, sums being float32. Its use is speed: half the memory, twice the rate and more. Gradients
 * take the rounding for the identity; the CPU's are float32 chains all the same.
 *
 * Memory. A kern_buf is device memory, opaque. A kern_tensor is a typed view of it, passed by value; it owns nothing. The host
 * copies through the queue, or looks through a kern_window, which on the CPU copies nothing.
 * Order and errors. Operations run in the order queued; they return nothing. A device failure is kept and comes back from the next
 * kern_sync. Shape mismatches are bugs and assert. No operation allocates.
 * Threads. One thread at a time uses a queue.
 *
 * Notation: M rows, K inputs, N outputs, H query heads, G key/value heads, D head dimension, V vocabulary. Arrays are row-major. Index
 * arrays are int32, the cache of keys and values is bytes, what masters are beside bfloat16 weights int16 (kern_adamw), and other tensors
 * float32, but
 *   weights       (w, bias, table, weight, q_norm, k_norm below) may also be bfloat16: a choice of storage, widened to the float of the same
 *                 value where it is used
 *   activations   that feed or leave products, and their gradients, may also be bfloat16 on a card (kern_activations): x, y, dx, dy of
 *                 products and kern_bias_grad, with factors of bfloat16; y and dy of kern_rmsnorm and its gradient; all of kern_swiglu,
 *                 kern_qk_rope, attention and their gradients, of one call all the same. An operation computes in float32 and rounds once,
 *                 to the nearest, when it stores: bfloat16 tensors give what float32 tensors of the same values give, rounded
 * dlogits of kern_logprob_grad may be so too. The CPU takes no activations but float32. The residual stream and its gradient, statistics, logits
 * are float32 everywhere.
 *
 * C17 and C++17 may include this header. */
#ifndef RLF_KERNELS_KERN_H
#define RLF_KERNELS_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

/* A function that kernels may call too. */
#ifdef __CUDACC__
#define KERN_BOTH static __host__ __device__ __forceinline__
#else
#define KERN_BOTH static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kern_device kern_device;
typedef struct kern_queue kern_queue;
typedef struct kern_buf kern_buf;

typedef enum kern_dtype { KERN_F32, KERN_BF16, KERN_I32, KERN_I16, KERN_U8 } kern_dtype;

typedef struct kern_tensor {
    kern_buf *buf;    /* NULL: no tensor (an optional argument left out) */
    size_t offset;    /* elements */
    kern_dtype dtype;
} kern_tensor;

enum { KERN_PART_ROWS = 32 };

static inline kern_tensor kern_none(void) { kern_tensor t = {NULL, 0, KERN_F32}; return t; }
static inline kern_tensor kern_at(kern_tensor t, size_t elements) { t.offset += elements; return t; }

/* ---- device, memory, queue -------------------------------------------------------------------------------------------------------- */

/* CUDA cards that can be used, numbered from 0 on; 0 where there is no driver, or the build has no CUDA backend. */
int kern_cards(void);
/* What a card is called, "NVIDIA H200, 139 GiB", its memory, and whether this build can link it with those of other processes. Errors as those
 * of kern_device_open; makes nothing on the card. */
typedef struct kern_card_facts {
    char name[128];
    size_t bytes;
    bool links;
} kern_card_facts;
rlf_status kern_card_find(kern_card_facts *out, int card) RLF_MUST_USE;
/* This machine has NVIDIA's driver loaded, whether or not it works and this build has the CUDA backend. */
bool kern_card_driver(void);

enum { KERN_MAX_THREADS = 256 };

typedef struct kern_device_options {
    const char *name;  /* "cpu"; "cuda" where the build has it; "auto": cuda where there is a card, else cpu */
    int threads;       /* CPU: worker threads including the caller; 0: one per core of the affinity mask, KERN_MAX_THREADS at
                        * most */
    const char *isa;   /* CPU: NULL chooses the best; "avx512bf16", "avx512", "avx2", "portable" force one (RLF_UNSUPPORTED if the machine
                        * lacks it); the first is the second but for forward products of bfloat16 factors.
                        * CUDA: NULL chooses; "ampere" leaves out what only Hopper's cards have, "hopper" wants it. Same bits.
                        * "free" has products of bfloat16 factors by cuBLASLt, whose bits change with the rows that come together, to
                        * measure what exactness costs */
    int card;          /* CUDA: which of the cards this process sees, from 0 on (RLF_UNSUPPORTED if there is none) */
} kern_device_options;

rlf_status kern_device_open(kern_device **out, const kern_device_options *options) RLF_MUST_USE;
void kern_device_close(kern_device *device);
/* e.g. "cpu avx512, 2 threads". Valid while the device is open. */
const char *kern_device_name(const kern_device *device);
bool kern_device_is_card(const kern_device *device);
/* What a device's activations are best stored as: KERN_BF16 on a card that rounds them for products anyway, else KERN_F32. The second is
 * for a device that is not open yet: "cpu" or "cuda". */
kern_dtype kern_activations(const kern_device *device, kern_dtype factors);
kern_dtype kern_activations_on(const char *device, kern_dtype factors);
/* Bytes of all buffers there are, but for those of other processes. */
size_t kern_device_bytes(const kern_device *device);

/* Zeroed. Free with kern_buf_destroy before the device closes. */
rlf_status kern_buf_new(kern_buf **out, kern_device *device, size_t bytes) RLF_MUST_USE;
void kern_buf_destroy(kern_buf *buf);
static inline kern_tensor kern_view(kern_buf *buf, kern_dtype dtype) { kern_tensor t = {buf, 0, dtype}; return t; }
size_t kern_dtype_size(kern_dtype dtype);

rlf_status kern_queue_new(kern_queue **out, kern_device *device) RLF_MUST_USE;
void kern_queue_destroy(kern_queue *queue);
kern_device *kern_queue_device(const kern_queue *queue);
/* Waits for everything queued; returns the first device failure since the last sync. */
rlf_status kern_sync(kern_queue *queue) RLF_MUST_USE;

/* Counts are elements. The host side of an upload may be reused on return; a download is complete on return. The two sides of a copy do not
 * overlap. */
void kern_upload(kern_queue *queue, kern_tensor dst, const void *src, size_t n);
void kern_download(kern_queue *queue, void *dst, kern_tensor src, size_t n);
void kern_copy(kern_queue *queue, kern_tensor dst, kern_tensor src, size_t n);
void kern_zero(kern_queue *queue, kern_tensor dst, size_t n);
/* dst = src, one of them float32 and the other bfloat16, or both the same. To bfloat16: the nearest, the even one of two. */
void kern_convert(kern_queue *queue, kern_tensor dst, kern_tensor src, size_t n);

/* Operations that are queued again and again, as one: on a card, where queueing small kernels one by one takes longer than they do; only
 * there (kern_device_is_card). Between begin and end operations are kept instead of run, and there are no copies, no kern_zero, no sync,
 * nothing that takes a host array, and no buffer made or destroyed. A graph runs them on the same tensors, with what these hold then. */
typedef struct kern_graph kern_graph;
void kern_graph_begin(kern_queue *queue);
rlf_status kern_graph_end(kern_queue *queue, kern_graph **out) RLF_MUST_USE;
void kern_graph_run(kern_queue *queue, const kern_graph *graph);
void kern_graph_destroy(kern_graph *graph);

/* The host's view of a tensor, a piece at a time. Where device memory is the host's, the piece is the tensor's own memory,
 * however long. Elsewhere it is a copy, in page-locked memory of `bytes`, so that a slab is never held twice. */
typedef struct kern_window kern_window;
enum { KERN_WINDOW_BYTES = 64 << 20 }; /* what copies a large tensor at full speed */
rlf_status kern_window_new(kern_window **out, kern_queue *queue, size_t bytes) RLF_MUST_USE;
void kern_window_destroy(kern_window *window);
/* The first *n elements of t, to be read until the next call; *n is cut to what the window holds. Syncs. */
rlf_status kern_window_read(kern_window *window, kern_tensor t, size_t *n, const void **host) RLF_MUST_USE;
/* Room for the first *n elements of t (cut likewise), contents undefined; they are t's once kern_window_write was called for as
 * many. */
void *kern_window_room(kern_window *window, kern_tensor t, size_t *n);
rlf_status kern_window_write(kern_window *window, kern_tensor t, size_t n) RLF_MUST_USE;

/* ---- matrix products -------------------------------------------------------------------------------------------------------------- */

/* factors: KERN_F32, or KERN_BF16 with w of bfloat16 (see above). What is accumulated is float32. */
/* y (M,N) = x (M,K) · w (N,K)ᵀ [+ bias (N)];  accumulate: y = y + that. */
void kern_linear(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor w, kern_tensor bias, kern_dtype factors, int m, int n, int k,
                 bool accumulate);
/* dx (M,K) = dy (M,N) · w (N,K);  accumulate: dx = dx + that. Chain over n ascending. */
void kern_linear_grad_input(kern_queue *queue, kern_tensor dx, kern_tensor dy, kern_tensor w, kern_dtype factors, int m, int n, int k,
                            bool accumulate);
/* dw (N,K) += dy (M,N)ᵀ · x (M,K). One chain per element over rows ascending, from the value dw has. */
void kern_linear_grad_weight(kern_queue *queue, kern_tensor dw, kern_tensor dy, kern_tensor x, kern_dtype factors, int m, int n, int k);
/* dbias (N) += column sums of dy (M,N). */
void kern_bias_grad(kern_queue *queue, kern_tensor dbias, kern_tensor dy, int m, int n);

/* ---- embedding and rows ----------------------------------------------------------------------------------------------------------- */

/* An id that the host does not know yet: element j of the ids drawn before. */
#define KERN_DRAWN(j) (-1 - (j))
/* y (M,K) = table[ids[i]];  ids (M) int32, all in range (the caller checked). KERN_DRAWN(j) stands for drawn[j]; without any, drawn may be
 * none. */
void kern_embed(kern_queue *queue, kern_tensor y, kern_tensor table, kern_tensor ids, kern_tensor drawn, int m, int k);
/* dtable[ids[i]] += dy (M,K), rows ascending. */
void kern_embed_grad(kern_queue *queue, kern_tensor dtable, kern_tensor dy, kern_tensor ids, int m, int k);
/* y (M,K) = x[index[i]]  and  y[index[i]] = x (M,K) (indices distinct). */
void kern_rows_gather(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor index, int m, int k);
void kern_rows_scatter(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor index, int m, int k);
/* y (K) = y + x[0] + x[1] + ..., x (M,K), float32 or bfloat16, one after the other. */
void kern_rows_add(kern_queue *queue, kern_tensor y, kern_tensor x, int m, int k);

/* ---- norms, activation ------------------------------------------------------------------------------------------------------------ */

enum { KERN_CARD_HIDDEN = 13824 }; /* three rows of floats fit into a block's shared memory, on an A100 too */

/* y = x * rsqrt(mean(x²) + eps) * weight (K), per row (Zhang & Sennrich 2019). y may be x. */
void kern_rmsnorm(kern_queue *queue, kern_tensor y, kern_tensor x, kern_tensor weight, float eps, int m, int k);
/* dx (M,K) += ..., dweight (K) += ... from dy (M,K) and the forward input x. On a card K is at most KERN_CARD_HIDDEN. */
void kern_rmsnorm_grad(kern_queue *queue, kern_tensor dx, kern_tensor dweight, kern_tensor dy, kern_tensor x, kern_tensor weight, float eps,
                       int m, int k);
/* y (M,F) = silu(gate) * up, gate_up (M,2F) = [gate | up] (Shazeer 2020). */
void kern_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, int m, int f);
void kern_swiglu_grad(kern_queue *queue, kern_tensor dgate_up, kern_tensor dy, kern_tensor gate_up, int m, int f);
/* y (M,N) = kern_linear of normed (M,K) = kern_rmsnorm of x (M,K), which is float32 and not y; with the bits of these two. normed is work space, of
 * the type that the product takes; what it holds afterwards is undefined. */
void kern_norm_linear(kern_queue *queue, kern_tensor y, kern_tensor normed, kern_tensor x, kern_tensor norm, float eps, kern_tensor w,
                      kern_tensor bias, kern_dtype factors, int m, int n, int k);
/* y (M,F) = kern_swiglu of gate_up (M,2F) = kern_linear of x (M,K) and w (2F,K), with the bits of these two. gate_up is work space, of y's
 * type; what it holds afterwards is undefined. */
void kern_linear_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, kern_tensor x, kern_tensor w, kern_dtype factors, int m,
                        int f, int k);
/* The same of normed (M,K) = kern_rmsnorm of x (M,K), as in kern_norm_linear. */
void kern_norm_linear_swiglu(kern_queue *queue, kern_tensor y, kern_tensor gate_up, kern_tensor normed, kern_tensor x, kern_tensor norm,
                             float eps, kern_tensor w, kern_dtype factors, int m, int f, int k);

/* ---- attention -------------------------------------------------------------------------------------------------------------------- */

/* factors, KERN_BF16: q, k, v, the probabilities and the gradient of out are rounded where the backend has tensor cores for that D (CUDA: 64
 * and 128), in an order of its own; elsewhere, and always on the CPU, the same as KERN_F32. */
typedef struct kern_attn_shape {
    int heads, kv_heads, head_dim; /* H, G, D; D even, at most 256 */
    kern_dtype factors;
} kern_attn_shape;
/* A qkv row holds [q: H*D | k: G*D | v: G*D]. */
KERN_BOTH int kern_qkv_width(kern_attn_shape s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }

/* Paged key/value cache: kern_kv_bytes of KERN_U8. The layout inside a page is the backend's own, which keeps factors that it rounds
 * anyway as bfloat16. */
typedef struct kern_kv_shape {
    int layers, kv_heads, head_dim;
    int page_size; /* tokens; a multiple of 16 */
    int pages;
    kern_dtype factors; /* these and the head's sizes: as in the kern_attn_shape that the cache is used with */
} kern_kv_shape;
size_t kern_kv_bytes(const kern_device *device, kern_kv_shape shape);
/* The same for a device that is not open yet: "cpu" or "cuda". */
size_t kern_kv_bytes_on(const char *device, kern_kv_shape shape);
/* Copies a page, all layers (copy-on-write of a shared prompt's last page). */
void kern_kv_copy_page(kern_queue *queue, kern_tensor kv, kern_kv_shape kv_shape, int dst_page, int src_page);

/* Where keys and values of M rows are kept, for kern_attention_paged. */
typedef struct kern_kv_rows {
    kern_tensor kv;
    kern_kv_shape shape;
    int layer;
    kern_tensor slots; /* (M) int32: page * page_size + place in page. Rows of the same slot have the same k and v */
} kern_kv_rows;

/* Per head RMSNorm of q and k with q_norm, k_norm (D) (none: skipped), then rotary embedding in the half-split form of Hugging Face
 * (rotate_half); v is copied. rope (positions, D): D/2 cosines then D/2 sines per position. pos (M) int32. out may be in. k and v, as out
 * has them, are stored to `kept` too, unless it is NULL. */
void kern_qk_rope(kern_queue *queue, kern_tensor out, kern_tensor in, kern_tensor q_norm, kern_tensor k_norm, float eps, kern_tensor rope,
                  kern_tensor pos, int m, kern_attn_shape shape, const kern_kv_rows *kept);
/* din from dout (may be the same memory), dq_norm and dk_norm (D) +=; `in` is the forward input. */
void kern_qk_rope_grad(kern_queue *queue, kern_tensor din, kern_tensor dq_norm, kern_tensor dk_norm, kern_tensor dout, kern_tensor in,
                       kern_tensor q_norm, kern_tensor k_norm, float eps, kern_tensor rope, kern_tensor pos, int m, kern_attn_shape shape);

/* Causal attention over S packed sequences: rows seq_begin[s] .. seq_begin[s+1]-1 belong to sequence s, at positions 0, 1, ... Scale is
 * 1/sqrt(D). out (M, H*D); lse (M, H): log of the sum of exp of scaled scores, kept for the gradient. seq_begin: host array
 * (S+1), first 0, last M.
 * On the CPU a sequence may have kern_cpu_positions(D) positions. On a card M H is at most KERN_CARD_ROW_HEADS for the gradient, and with float32
 * activations on tensor cores M (2D + 2). */
enum { KERN_CARD_ROW_HEADS = 1 << 24, KERN_MOST_GROUP = 128 };
int kern_cpu_positions(int head_dim); /* 239,610 at D = 128: what of them fits into a thread's work space */
void kern_attention(kern_queue *queue, kern_tensor out, kern_tensor lse, kern_tensor qkv, const int32_t *seq_begin, int seqs,
                    kern_attn_shape shape);
/* dqkv (M, width) is overwritten. */
void kern_attention_grad(kern_queue *queue, kern_tensor dqkv, kern_tensor dout, kern_tensor out, kern_tensor lse, kern_tensor qkv,
                         const int32_t *seq_begin, int seqs, kern_attn_shape shape);

/* What the host knows of the rows, whose positions only the device has: it shapes the work that is queued, and no bit depends on it. */
typedef struct kern_rows_hint {
    int end;                  /* all positions are below it */
    int lone_end;             /* those of rows before long_begin and from long_end on are */
    bool decoding;            /* neighbouring rows are of different sequences, but for a few */
    int long_begin, long_end; /* rows from the first to before the second are all of runs of more than KERN_LONG_RUN neighbours of a sequence */
} kern_rows_hint;
enum { KERN_LONG_RUN = 16 };
/* Row i attends to keys 0..pos[i] of sequence seq[i], whose pages are page_table[seq[i]*max_pages ...]. pos, seq (M), page_table
 * (S, max_pages): int32, S being as many as seq asks for, which is not checked. The rows' own keys have been written. out (M, H*D). Same
 * bits as kern_attention for the same row. On tensor cores H is at most KERN_MOST_GROUP G. */
void kern_attention_paged(kern_queue *queue, kern_tensor out, kern_tensor qkv, kern_tensor kv, kern_kv_shape kv_shape, int layer,
                          kern_tensor seq, kern_tensor pos, int m, kern_tensor page_table, int max_pages, kern_rows_hint hint,
                          kern_attn_shape shape);

/* ---- the head: log-prob, entropy, sampling ---------------------------------------------------------------------------------------- */

/* The sampling distribution. z = logits/temperature; keep the top_k largest (0: all), then the smallest set of most probable tokens whose
 * probability reaches top_p (1: all) — ties broken by lower id; renormalise. temperature 0: greedy (the arg max, lowest id on a tie, has
 * probability 1, and log-prob 0; NaN where its logit is not finite). Division by the temperature is multiplication by the float 1/temperature. */
typedef struct kern_filter {
    float temperature, top_p;
    int top_k;
} kern_filter;

enum {
    KERN_MOST_VOCAB = 1 << 19,
    KERN_HEAD_PART = 1024, /* ids in a part of a row (THE RULE) */
    KERN_HEAD_STATS = 6    /* floats a row that kern_logprob leaves for kern_logprob_grad: of the row, and whether its target is kept */
};

/* Per row of logits (M,V): logprob (M) = log p(target), entropy (M) of the same distribution, stats (M, KERN_HEAD_STATS). A
 * target outside the kept set has log-prob -inf. entropy may be none. */
void kern_logprob(kern_queue *queue, kern_tensor logprob, kern_tensor entropy, kern_tensor stats, kern_tensor logits, kern_tensor targets,
                  kern_filter filter, int m, int v);
/* dlogits (M,V): the gradient of sum_i dlogprob[i]*logprob[i] + dentropy[i]*entropy[i] with respect to logits (M,V), which it may be itself; targets
 * are those of the kern_logprob that left stats. The kept set is a constant. dentropy may be none. */
void kern_logprob_grad(kern_queue *queue, kern_tensor dlogits, kern_tensor logits, kern_tensor stats, kern_tensor targets,
                       kern_tensor dlogprob, kern_tensor dentropy, kern_filter filter, int m, int v);

typedef struct kern_sample_key {
    uint64_t uid;
    uint32_t sample, position; /* position of the token being drawn */
} kern_sample_key;
/* Draws ids (M) int32 with rlf_rng_uniform(seed, RLF_RNG_SAMPLE, uid, sample, position) by inverse distribution over kept ids
 * ascending: running sums find a part, then 16 ids of it, then one. logprob (M) has the very bits kern_logprob gives for that target.
 * keys: host array (M). */
void kern_sample(kern_queue *queue, kern_tensor ids, kern_tensor logprob, kern_tensor logits, kern_filter filter, uint64_t seed,
                 const kern_sample_key *keys, int m, int v);

/* ---- optimizer -------------------------------------------------------------------------------------------------------------------- */

typedef struct kern_adamw_args {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;       /* 1 for the first update */
    float grad_scale;   /* multiplies the gradient first: clipping, averaging */
} kern_adamw_args;
/* Decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW: params, moments m and v, over n elements.
 * param is float32, and rest none. Or the master that is updated is a float32 in two parts, param of bfloat16 and rest of int16: its bits
 * are those of param, widened, plus rest, as integers; whatever the sign, a positive rest lies away from zero. Afterwards param is the
 * bfloat16 nearest to the master, the even one of two, and rest what is left. One kind of master has no such rest, for it would be 2^15:
 * one halfway between two bfloat16 of which the even one is nearer to zero. Where an update gives such a master, it becomes the float32
 * next to it towards zero. A rest of zero: the master is param. */
void kern_adamw(kern_queue *queue, kern_tensor param, kern_tensor rest, kern_tensor grad, kern_tensor m, kern_tensor v, size_t n,
                kern_adamw_args args);
/* Sum of squares of n elements, in double: parts of 4096 elements, each 16 lanes by index mod 16 combined by the fixed tree,
 * added in order.
 * Host result, so it syncs. */
double kern_sumsq(kern_queue *queue, kern_tensor x, size_t n);
/* Sum over i of mix64(word i + (i+1) * 0x9E3779B97F4A7C15) mod 2^64, mix64 being the SplitMix64 finaliser. A word is 8 bytes of the n elements as
 * they lie in memory, little-endian, the last filled up by zeros. No order, so any backend can compute it. Syncs. */
uint64_t kern_checksum(kern_queue *queue, kern_tensor x, size_t n);

#ifdef __cplusplus
}
#endif
#endif
