/* Private to kernels/transformer: what decoder.c and trainer.c share.
 *
 * The exactness of the whole program rests on this file: a row's path from token to logits is written once, here, and both sides call it.
 * They differ only in which attention operation stands between kern_layer_qkv and kern_layer_attn_out, and kern.h promises the same bits
 * for both of those. */
#ifndef RLF_KERNELS_TRANSFORMER_LAYER_H
#define RLF_KERNELS_TRANSFORMER_LAYER_H

#include "kernels/transformer/transformer.h"

/* Where each parameter of a layer starts in a slab of the layout: the same for weights and gradients. */
typedef struct layer_offsets {
    size_t norm_attn, qkv, qkv_bias, q_norm, k_norm, o, norm_ffn, gate_up, down; /* elements; qkv_bias, q_norm, k_norm only where present */
} layer_offsets;

struct kern_model {
    const rlf_model_layout *layout; /* borrowed */
    kern_queue *queue;              /* borrowed */
    kern_buf *params_buf, *rope_buf;
    kern_tensor params; /* (layout->total) */
    kern_tensor rope;   /* (max_positions, D): D/2 cosines, then D/2 sines */
    kern_attn_shape attn;
    kern_dtype acts;    /* kern_activations: what normed, qkv, attn, gate_up, act below are */
    int max_positions;
    float eps;
    size_t embed, norm_final, head; /* elements; head == embed where tied */
    layer_offsets *layers;          /* (L), owned */
};

/* One slab of device memory and the tensors cut from it. Run twice over the same list of kern_slab_take: once with buf NULL, which only
 * counts, then with the buffer of that size. Each tensor starts at a multiple of 64 bytes. */
typedef struct kern_slab {
    kern_buf *buf;
    size_t bytes; /* taken so far */
} kern_slab;

kern_tensor kern_slab_take(kern_slab *slab, kern_dtype dtype, size_t n);

/* Of a device that is not open yet: "cpu" or "cuda". */
kern_dtype kern_acts_on(kern_precision precision, const char *device);

/* The parts of a forward pass. M = rows; x (M,H) is the residual stream, float32 like the logits; all else is of type model->acts;
 * W = (heads + 2 kv_heads) * D. act (M,F) is work space whose contents afterwards are the value named; normed (M,H) too, only where it is `kept`. */

/* normed = RMSNorm(x); qkv_in (M,W) = normed · [q k v]ᵀ */
void kern_layer_qkv_in(const kern_model *model, int layer, kern_tensor qkv_in, kern_tensor normed, kern_tensor x, int rows);
/* That; qkv (M,W) = q/k norm and rotation of it. qkv may be qkv_in. Its k and v are stored to `kept` too, unless it is NULL. */
void kern_layer_qkv(const kern_model *model, int layer, kern_tensor qkv, kern_tensor qkv_in, kern_tensor normed, kern_tensor x,
                    kern_tensor pos, int rows, const kern_kv_rows *kept);
/* x += attn (M, heads*D) · oᵀ */
void kern_layer_attn_out(const kern_model *model, int layer, kern_tensor x, kern_tensor attn, int rows);
/* normed = RMSNorm(mid); gate_up (M,2F) = normed · [gate up]ᵀ */
void kern_layer_gate_up(const kern_model *model, int layer, kern_tensor mid, kern_tensor normed, kern_tensor gate_up, int rows);
/* That; act = SwiGLU(gate_up); x += act · downᵀ. x is mid, or holds a copy of it. Not `kept`: gate_up is work space. */
void kern_layer_mlp(const kern_model *model, int layer, kern_tensor x, kern_tensor mid, kern_tensor normed, kern_tensor gate_up, bool kept,
                    kern_tensor act, int rows);
/* normed = final RMSNorm(x); logits (M,V) = normed · headᵀ */
void kern_model_head(const kern_model *model, kern_tensor logits, kern_tensor normed, bool kept, kern_tensor x, int rows);

/* The q/k norm weights of a slab in the layout, or none where the shape has none. */
kern_tensor kern_layer_q_norm(const kern_model *model, int layer, kern_tensor slab);
kern_tensor kern_layer_k_norm(const kern_model *model, int layer, kern_tensor slab);

/* RLF_INVALID, naming the row, unless every id is in lowest..V-1. */
rlf_status kern_model_check_ids(const kern_model *model, const char *what, const int32_t *ids, int n, int lowest) RLF_MUST_USE;

#endif
