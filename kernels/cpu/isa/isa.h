/* isa.h: first include of every file of this folder. Each is compiled once per instruction set with KERN_ISA defined to its name;
 * operation `name` of ops.h is the function KERN_OP(name) here, e.g. kern_cpu_linear_avx2. Everything else in a file is static. */
#ifndef RLF_KERNELS_CPU_ISA_ISA_H
#define RLF_KERNELS_CPU_ISA_ISA_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define KERN_OP(name) KERN_CPU(kern_cpu_##name)

#define KERN_OP_PROTOTYPE_(type, name, parameters) type KERN_OP(name) parameters;
KERN_OP_TABLE(KERN_OP_PROTOTYPE_)
#undef KERN_OP_PROTOTYPE_

static inline int kern_min(int a, int b) { return a < b ? a : b; }
static inline size_t kern_min_size(size_t a, size_t b) { return a < b ? a : b; }

#endif
