/* mma: the words of the dialect for tensor cores, and for what feeds them: bfloat16 matrices of 16 x 16 and 16 x 8, and copies from device
 * memory to shared memory that go on by themselves. Here they are PTX; tests/simt/tensor.c has the same in C.
 *
 * Fragments. A matrix lies over the 32 lanes of a warp: lane l = 4g + t, g in 0..7, t in 0..3, holds
 *
 *   A (16 rows, 16 of depth)   a[0]: row g,   depths 2t, 2t+1      a[1]: row g+8, depths 2t, 2t+1
 *                              a[2]: row g,   depths 2t+8, 2t+9    a[3]: row g+8, depths 2t+8, 2t+9
 *   B (16 of depth, 8 columns) b[0]: column g, depths 2t, 2t+1     b[1]: column g, depths 2t+8, 2t+9
 *   C (16 rows, 8 columns)     c[0], c[1]: row g, columns 2t, 2t+1      c[2], c[3]: row g+8, columns 2t, 2t+1
 *
 * Two bfloat16 share a word, the one of the lower index in its lower half. All lanes of a warp come to a kern_mma_ or kern_ldmatrix_
 * together.
 *
 * Order. A product of two bfloat16 is exact. How a card adds c and the sixteen products of one kern_mma_bf16 is its own affair (it drops
 * bits that the sum of all would have), but an element of C depends on nothing but its row of A, its column of B and its old value: so
 * kernels that give an element the same chain of kern_mma_bf16 give it the same bits, wherever in a tile it lies. The shim adds in double,
 * c first, depths ascending, and rounds once: other bits than a card's.
 *
 * Asynchronous copies. A thread's copies since its last kern_copy_commit are a group; kern_copy_wait(n) waits until at most n of the groups
 * it has committed are under way, the oldest first. Between the copy and the wait its destination is undefined. Others of the block see it
 * after a barrier that follows the wait. */
#ifndef RLF_KERNELS_CUDA_MMA_H
#define RLF_KERNELS_CUDA_MMA_H

#include "kernels/cuda/dialect.h"

#ifdef __CUDACC__

/* c += a b. */
KERN_DEVICE void kern_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four matrices of 8 x 8 bfloat16 from shared memory. Lane l gives the address of row l%8 of matrix l/8: 16 bytes, aligned to 16. r[i] is
 * elements 2t, 2t+1 of row g of matrix i; _trans: of column g. */
KERN_DEVICE void kern_ldmatrix_x4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
KERN_DEVICE void kern_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes to dst, in shared memory: the first bytes_valid (0..16) from src, in device memory, the rest zeros. Both aligned to 16. */
KERN_DEVICE void kern_copy_async16(void *dst, const void *src, int bytes_valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(dst)), "l"(src), "r"(bytes_valid)
                 : "memory");
}
KERN_DEVICE void kern_copy_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* A constant. */
#define kern_copy_wait(groups) asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory")

#else

#define kern_mma_bf16 simt_mma_bf16
#define kern_ldmatrix_x4 simt_ldmatrix_x4
#define kern_ldmatrix_x4_trans simt_ldmatrix_x4_trans
#define kern_copy_async16 simt_copy_async16
#define kern_copy_commit simt_copy_commit
#define kern_copy_wait simt_copy_wait

#endif
#endif
