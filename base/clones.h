/* Function multiversioning for hot loops: the compiler emits one body per CPU level and the loader
 * picks the widest that the machine has. Because contraction and reassociation are off
 * (CMakeLists.txt), every level of a cloned function computes the same bits. */
#ifndef GLN_BASE_CLONES_H
#define GLN_BASE_CLONES_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(GLN_SANITIZED)
#define GLN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define GLN_CLONES
#endif

#endif
