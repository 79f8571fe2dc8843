/* hopper: the words of the dialect for what only Hopper's cards have (compute capability 9.0): products by a warp group, whose factors come
 * from shared memory (wgmma), boxes of matrices that the copy engine brings there by itself (TMA), and gates to wait for them (mbarrier).
 * Here they are PTX; tests/simt/hopper.c has the same in C. kern_card_hopper (card.h) says whether a card has them; elsewhere a kernel that
 * uses them ends with an error.
 *
 * Tiles. A tile is 64 elements of 2 bytes wide, 128 bytes a row, any number of rows, aligned to 1024 bytes; the eight 16-byte chunks of row r
 * are exchanged by r mod 8 (chunk c lies at c ^ (r & 7)): what kern_copy_box writes and wgmma reads, in all banks at once. A factor is
 *
 *   along     a row a line (a row of A, a column of B), of 64 of depth: kern_wgmma_along(tile + 16 i) is 16 of depth from 16 i on
 *   across    a row a depth, 64 lines wide; more lines are further tiles, `apart` bytes each: kern_wgmma_across(tile + 16 i * 64, apart)
 *
 * Products, N being 64, 96, 128, 192 or 256. kern_wgmma_N(c, a, a_across, b, b_across): c (64 x N) += A (64 x 16) B (16 x N), by the 128 threads of a warp group, which begins at
 * a multiple of 4 warps. Warp w of them has rows 16 w .. 16 w + 15 of c: c[j] is the fragment C of mma.h for columns 8 j .. 8 j + 7.
 * kern_wgmma_rows_N takes A from registers: the fragment a[4] of mma.h for the warp's rows. kern_wgmma_new_64 and kern_wgmma_rows_new_64, of factors
 * along, begin a chain: c = A B, as from zeros. An element gets the bits that kern_mma_bf16 gives
 * it: an H100 showed no difference in 10^5 elements of all sizes, chains of up to 2048, as A B and as (B A)^T.
 * They run by themselves: kern_wgmma_fence comes before the first of a group, and whenever registers that they use were written otherwise;
 * kern_wgmma_commit ends a group, kern_wgmma_wait(n) waits until at most n groups of the thread are under way. Until then c is not touched,
 * and neither are the tiles nor a. The flags are constants.
 *
 * Gates, in shared memory. A phase of a gate ends when `arrivals` threads have arrived and all bytes that were announced have come; then the
 * next begins. kern_gate_wait(gate, p) waits for the end of the phase whose number is even (p = 0) or odd (p = 1); phases are
 * numbered from 0, and nobody waits for one that is two behind. kern_gate_open makes a gate; a thread that has made some says
 * kern_gate_opened, and a barrier of the block follows. */
#ifndef RLF_KERNELS_CUDA_HOPPER_H
#define RLF_KERNELS_CUDA_HOPPER_H

#include "kernels/cuda/mma.h"

typedef uint64_t kern_gate;

enum { KERN_TILE_WIDE = 64, KERN_TILE_ALIGN = 1024 };

/* The first place of `memory`, which has KERN_TILE_ALIGN bytes to spare, where a tile may begin. */
#define KERN_TILE_START(memory) \
    ((void *)((char *)(memory) + (KERN_TILE_ALIGN - (uintptr_t)(memory) % KERN_TILE_ALIGN) % KERN_TILE_ALIGN))

#ifdef __CUDACC__

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define KERN_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else /* machine code for other cards, which is never launched */
#define KERN_HOPPER_ASM(...) __trap()
#endif

typedef uint64_t kern_wgmma_factor;

KERN_DEVICE uint32_t kern_shared_address(const void *at) { return (uint32_t)__cvta_generic_to_shared(at); }

KERN_DEVICE void kern_gate_open(kern_gate *gate, int arrivals) {
    KERN_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(kern_shared_address(gate)), "r"(arrivals) : "memory");
}
KERN_DEVICE void kern_gate_opened(void) { KERN_HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory"); }
KERN_DEVICE void kern_gate_arrive(kern_gate *gate) {
    KERN_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(kern_shared_address(gate)) : "memory");
}
/* Arrives, and announces bytes of kern_copy_box. */
KERN_DEVICE void kern_gate_expect(kern_gate *gate, int bytes) {
    KERN_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(kern_shared_address(gate)), "r"(bytes) : "memory");
}
KERN_DEVICE void kern_gate_wait(kern_gate *gate, int parity) {
    KERN_HOPPER_ASM("{\n"
                    ".reg .pred over;\n"
                    "again:\n"
                    "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                    "@over bra done;\n"
                    "bra again;\n"
                    "done:\n"
                    "}" ::"r"(kern_shared_address(gate)),
                    "r"(parity)
                    : "memory");
}
/* The box of the map from (row, col) on to a tile; what lies outside the matrix is zeros. Its bytes, those too, arrive at the gate. */
KERN_DEVICE void kern_copy_box(void *tile, const kern_map *map, int row, int col, kern_gate *gate) {
    KERN_HOPPER_ASM("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                        kern_shared_address(tile)),
                    "l"(map), "r"(col), "r"(row), "r"(kern_shared_address(gate))
                    : "memory");
}
/* The map is on its way to where kern_copy_box looks for it. */
KERN_DEVICE void kern_fetch_map(const kern_map *map) { KERN_HOPPER_ASM("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
/* The 128 bytes around `at` are on their way to the second-level cache. */
KERN_DEVICE void kern_prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }
/* What this thread has written to shared memory is there for wgmma, after a barrier for that of others. */
KERN_DEVICE void kern_tile_written(void) { KERN_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory"); }

/* The registers of the calling warp group's threads, from those that the launch gave: constants, multiples of 8. */
#define kern_registers_more(n) KERN_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"((int)(n)))
#define kern_registers_less(n) KERN_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"((int)(n)))

/* A barrier of `threads` threads, whole warps, that come to the same number (1..15). kern_barrier_pass only says that it has come. */
KERN_DEVICE void kern_barrier_some(int number, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory"); }
KERN_DEVICE void kern_barrier_pass(int number, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory"); }

KERN_DEVICE kern_wgmma_factor kern_wgmma_factor_of(const void *tile, int apart) {
    return (uint64_t)((kern_shared_address(tile) & 0x3ffff) >> 4) | (uint64_t)(apart >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
KERN_DEVICE kern_wgmma_factor kern_wgmma_along(const uint16_t *tile) { return kern_wgmma_factor_of(tile, 16); }
KERN_DEVICE kern_wgmma_factor kern_wgmma_across(const uint16_t *tile, int apart) { return kern_wgmma_factor_of(tile, apart); }
/* The factor that begins so many elements further: an addition, where the other two work an address out. */
KERN_DEVICE kern_wgmma_factor kern_wgmma_next(kern_wgmma_factor factor, int elements) { return factor + (kern_wgmma_factor)(elements * 2 >> 4); }

KERN_DEVICE void kern_wgmma_fence(void) { KERN_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory"); }
KERN_DEVICE void kern_wgmma_commit(void) { KERN_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* A constant. */
#define kern_wgmma_wait(groups) KERN_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"((int)(groups)) : "memory")

#define KERN_TEXT_4 "%0,%1,%2,%3"
#define KERN_TEXT_8 KERN_TEXT_4 ",%4,%5,%6,%7"
#define KERN_TEXT_16 KERN_TEXT_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define KERN_TEXT_32 KERN_TEXT_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define KERN_TEXT_64 \
    KERN_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define KERN_TEXT_48 KERN_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define KERN_TEXT_96 \
    KERN_TEXT_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define KERN_TEXT_128                                                                                                     \
    KERN_TEXT_96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
                 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define KERN_REGS_4(c, j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define KERN_REGS_8(c, j) KERN_REGS_4(c, j), KERN_REGS_4(c, j + 1)
#define KERN_REGS_16(c, j) KERN_REGS_8(c, j), KERN_REGS_8(c, j + 2)
#define KERN_REGS_32(c, j) KERN_REGS_16(c, j), KERN_REGS_16(c, j + 4)
#define KERN_REGS_48(c, j) KERN_REGS_32(c, j), KERN_REGS_16(c, j + 8)
#define KERN_REGS_64(c, j) KERN_REGS_32(c, j), KERN_REGS_32(c, j + 8)
#define KERN_REGS_96(c, j) KERN_REGS_64(c, j), KERN_REGS_32(c, j + 16)
#define KERN_REGS_128(c, j) KERN_REGS_64(c, j), KERN_REGS_64(c, j + 16)

/* regs: N/2, the floats of c; x0..x4: the numbers of the operands after them. */
#define KERN_WGMMA_TEXT(n, regs) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" KERN_TEXT_##regs "}, "
#define KERN_WGMMA_ASM(n, regs, x0, x1, flags) \
    KERN_HOPPER_ASM(KERN_WGMMA_TEXT(n, regs) "%" #x0 ", %" #x1 ", 1, 1, 1, " flags ";" : KERN_REGS_##regs(c, 0) : "l"(a), "l"(b))
#define KERN_WGMMA_ROWS_ASM(n, regs, x0, x1, x2, x3, x4, flag)                                                                     \
    KERN_HOPPER_ASM(KERN_WGMMA_TEXT(n, regs) "{%" #x0 ",%" #x1 ",%" #x2 ",%" #x3 "}, %" #x4 ", 1, 1, 1, " flag ";"                 \
                    : KERN_REGS_##regs(c, 0)                                                                                       \
                    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define KERN_WGMMA_WORDS(n, regs, x0, x1, x2, x3, x4)                                                                              \
    KERN_DEVICE void kern_wgmma_##n(float c[n / 8][4], kern_wgmma_factor a, bool a_across, kern_wgmma_factor b, bool b_across) {   \
        if (a_across && b_across)                                                                                                  \
            KERN_WGMMA_ASM(n, regs, x0, x1, "1, 1");                                                                               \
        else if (a_across)                                                                                                         \
            KERN_WGMMA_ASM(n, regs, x0, x1, "1, 0");                                                                               \
        else if (b_across)                                                                                                         \
            KERN_WGMMA_ASM(n, regs, x0, x1, "0, 1");                                                                               \
        else                                                                                                                       \
            KERN_WGMMA_ASM(n, regs, x0, x1, "0, 0");                                                                               \
    }                                                                                                                              \
    KERN_DEVICE void kern_wgmma_rows_##n(float c[n / 8][4], const uint32_t a[4], kern_wgmma_factor b, bool b_across) {             \
        if (b_across)                                                                                                              \
            KERN_WGMMA_ROWS_ASM(n, regs, x0, x1, x2, x3, x4, "1");                                                                 \
        else                                                                                                                       \
            KERN_WGMMA_ROWS_ASM(n, regs, x0, x1, x2, x3, x4, "0");                                                                 \
    }
/* The same with c from 0, both factors along. */
#define KERN_NEW_4(c, j) "=f"(c[j][0]), "=f"(c[j][1]), "=f"(c[j][2]), "=f"(c[j][3])
#define KERN_NEW_16(c, j) KERN_NEW_4(c, j), KERN_NEW_4(c, j + 1), KERN_NEW_4(c, j + 2), KERN_NEW_4(c, j + 3)
#define KERN_NEW_32(c) KERN_NEW_16(c, 0), KERN_NEW_16(c, 4)
KERN_DEVICE void kern_wgmma_new_64(float c[8][4], kern_wgmma_factor a, kern_wgmma_factor b) {
    KERN_HOPPER_ASM(KERN_WGMMA_TEXT(64, 32) "%32, %33, 0, 1, 1, 0, 0;" : KERN_NEW_32(c) : "l"(a), "l"(b));
}
KERN_DEVICE void kern_wgmma_rows_new_64(float c[8][4], const uint32_t a[4], kern_wgmma_factor b) {
    KERN_HOPPER_ASM(KERN_WGMMA_TEXT(64, 32) "{%32,%33,%34,%35}, %36, 0, 1, 1, 0;"
                    : KERN_NEW_32(c)
                    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
KERN_WGMMA_WORDS(64, 32, 32, 33, 34, 35, 36)
KERN_WGMMA_WORDS(96, 48, 48, 49, 50, 51, 52)
KERN_WGMMA_WORDS(128, 64, 64, 65, 66, 67, 68)
KERN_WGMMA_WORDS(192, 96, 96, 97, 98, 99, 100)
KERN_WGMMA_WORDS(256, 128, 128, 129, 130, 131, 132)

#else

typedef struct kern_wgmma_factor {
    const uint16_t *tile;
    int apart; /* bytes; 0: along */
} kern_wgmma_factor;

#define kern_gate_open simt_gate_open
#define kern_gate_opened() ((void)0)
#define kern_gate_arrive(gate) simt_gate_expect(gate, 0)
#define kern_gate_expect simt_gate_expect
#define kern_gate_wait simt_gate_wait
#define kern_copy_box(tile, map, row, col, gate) simt_copy_box(tile, (map)->words, row, col, gate)
#define kern_fetch_map(map) ((void)(map))
#define kern_prefetch(at) ((void)(at))
#define kern_tile_written simt_tile_written
#define kern_registers_more(n) ((void)0)
#define kern_registers_less(n) ((void)0)
#define kern_barrier_some(number, threads) simt_barrier_some(number, threads, true)
#define kern_barrier_pass(number, threads) simt_barrier_some(number, threads, false)
#define kern_wgmma_fence() ((void)0)
#define kern_wgmma_commit simt_wgmma_commit
#define kern_wgmma_wait simt_wgmma_wait
KERN_DEVICE kern_wgmma_factor kern_wgmma_along(const uint16_t *tile) { return (kern_wgmma_factor){tile, 0}; }
KERN_DEVICE kern_wgmma_factor kern_wgmma_across(const uint16_t *tile, int apart) { return (kern_wgmma_factor){tile, apart}; }
KERN_DEVICE kern_wgmma_factor kern_wgmma_next(kern_wgmma_factor factor, int distance) {
    return (kern_wgmma_factor){factor.tile + distance, factor.apart};
}
#define KERN_WGMMA_WORDS(n)                                                                                                        \
    KERN_DEVICE void kern_wgmma_##n(float c[n / 8][4], kern_wgmma_factor a, bool a_across, kern_wgmma_factor b, bool b_across) {   \
        simt_wgmma(c, n, a.tile, NULL, a_across, b.tile, b.apart, b_across);                                                       \
    }                                                                                                                              \
    KERN_DEVICE void kern_wgmma_rows_##n(float c[n / 8][4], const uint32_t a[4], kern_wgmma_factor b, bool b_across) {             \
        simt_wgmma(c, n, NULL, a, false, b.tile, b.apart, b_across);                                                               \
    }
KERN_WGMMA_WORDS(64)
KERN_WGMMA_WORDS(96)
KERN_WGMMA_WORDS(128)
KERN_WGMMA_WORDS(192)
KERN_WGMMA_WORDS(256)
KERN_DEVICE void kern_wgmma_new_64(float c[8][4], kern_wgmma_factor a, kern_wgmma_factor b) {
    memset(c, 0, 8 * sizeof *c);
    kern_wgmma_64(c, a, false, b, false);
}
KERN_DEVICE void kern_wgmma_rows_new_64(float c[8][4], const uint32_t a[4], kern_wgmma_factor b) {
    memset(c, 0, 8 * sizeof *c);
    kern_wgmma_rows_64(c, a, b, false);
}

#endif
#endif
