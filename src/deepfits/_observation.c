/* The two matrix products of Observation (observation.py), for batches of small matrices.

   For 32 x 32 matrices, BLAS spends half of the time on call overhead. Here all operands of an object stay in
   the L1 cache and the partial sums in registers. The operands of the next object are prefetched
   tile by tile, because each matrix is used only once and loading it takes as long as the arithmetic. Every
   element is summed in the order of the inner index, however it is tiled, so the result of an object does not
   depend on its neighbours.

   The functions do not use the Python API; they are called through ctypes. Without them the slower torch.bmm
   is used. */

#include <stddef.h>
#include <stdlib.h>

#define LINE 16 /* floats in a cache line */

/* Strided matrix: element (i, j) is at[i * row + j * column]. */
struct matrix {
    float *at;
    ptrdiff_t row, column;
};

#if defined(__x86_64__) || defined(__i386__)
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define WIDTH 8
#define HEIGHT 4
#include "_observation.h"
#define TARGET __attribute__((target("avx512f,fma")))
#define NAME(x) x##_avx512
#define WIDTH 16
#define HEIGHT 8
#include "_observation.h"
#define SUPPORTED() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define CHOSEN(x, d, s) (d >= 16 && s >= 16 && __builtin_cpu_supports("avx512f") ? x##_avx512 : x##_avx2)
#else
#define TARGET
#define NAME(x) x##_any
#define WIDTH 8
#define HEIGHT 4
#include "_observation.h"
#define SUPPORTED() 1
#define CHOSEN(x, d, s) x##_any
#endif

int deepfits_supported(void) { return SUPPORTED(); }

/* image (n, l, b, d, d) = rows (n b, d, s t) . [scene (n, l, b, s, s) . columns (n b, s, t d), read as (s t, d)],
   where each matrix is applied to the l planes of its object and band. `count` is n b. Returns 0, or 1 if memory
   cannot be allocated. */
int deepfits_tangents(float *rows, float *columns, float *scene, float *image, int count, int d, int s, int t, int l,
                      int b) {
    return CHOSEN(tangents, d, s)(rows, columns, scene, image, count, d, s, t, l, b);
}

/* The same product with one plane per matrix. */
int deepfits_show(float *rows, float *columns, float *scene, float *image, int n, int d, int s, int t) {
    return deepfits_tangents(rows, columns, scene, image, n, d, s, t, 1, 1);
}

/* The adjoint: scene = [rows^T . image, read as (n, s, t d)] . turned, where turned, (n, t d, s), is columns^T. */
int deepfits_transpose(float *rows, float *turned, float *image, float *scene, int n, int d, int s, int t) {
    return CHOSEN(transpose, d, s)(rows, turned, image, scene, n, d, s, t);
}
