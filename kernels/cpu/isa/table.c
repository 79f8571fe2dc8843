/* The table of operations of one instruction set: kern_cpu_ops_portable, kern_cpu_ops_avx2, kern_cpu_ops_avx512. */
#include "kernels/cpu/isa/isa.h"

extern const kern_ops KERN_CPU(kern_cpu_ops);

#define ENTRY(type, name, parameters) .name = KERN_OP(name),
const kern_ops KERN_CPU(kern_cpu_ops) = {KERN_OP_TABLE(ENTRY)};
