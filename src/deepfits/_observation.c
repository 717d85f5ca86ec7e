/* The two matrix products of Observation (observation.py), for batches of small matrices.

   For 32 x 32 matrices, BLAS spends half of the time on call overhead. Here all operands of an object stay in
   the L1 cache and eight vectors of partial sums in registers. The operands of the next object are prefetched
   tile by tile, because each matrix is used only once and loading it takes as long as the arithmetic. Every
   element is summed in the order of the inner index, however it is tiled, so the result of an object does not
   depend on its neighbours.

   The functions do not use the Python API; they are called through ctypes. Without them the slower torch.bmm
   is used. */

#include <stddef.h>
#include <stdlib.h>

#if defined(__x86_64__) || defined(__i386__)
#define TARGET __attribute__((target("avx2,fma")))
#define SUPPORTED() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define TARGET
#define SUPPORTED() 1
#endif
#define INLINE TARGET static inline __attribute__((always_inline))
#define WIDTH 8 /* floats in a vector */
#define HEIGHT 4 /* rows in a tile */
#define LINE 16 /* floats in a cache line */

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4)));

/* Strided matrix: element (i, j) is at[i * row + j * column]. */
struct matrix {
    float *at;
    ptrdiff_t row, column;
};

/* Compute a tile of c = a b: HEIGHT rows from i, vectors * WIDTH columns from j. */
INLINE void tile(struct matrix a, struct matrix b, struct matrix c, int i, int j, int inner, int vectors) {
    vector sum[HEIGHT][2] = {{{0}}};
    for (int l = 0; l < inner; l++) {
        const float *left = a.at + i * a.row + l * a.column, *right = b.at + l * b.row + j;
        for (int v = 0; v < vectors; v++)
            for (int r = 0; r < HEIGHT; r++)
                sum[r][v] += left[r * a.row] * *(const vector *)(right + v * WIDTH);
    }
    for (int r = 0; r < HEIGHT; r++)
        for (int v = 0; v < vectors; v++)
            *(vector *)(c.at + (i + r) * c.row + j + v * WIDTH) = sum[r][v];
}

/* c = a b, where the rows of b and c are contiguous, with at least WIDTH columns, and c has at least HEIGHT rows.
   The last tiles overlap the previous ones. Meanwhile `count` floats at `next` are prefetched. */
INLINE void product(struct matrix a, struct matrix b, struct matrix c, int rows, int columns, int inner,
                    const float *next, int count) {
    int tiles = ((rows + HEIGHT - 1) / HEIGHT) * ((columns + 2 * WIDTH - 1) / (2 * WIDTH));
    int lines = (count / LINE + tiles) / tiles;
    const float *end = next + count;
    for (int j = 0; j < columns;) {
        int left = columns - j, wide = left >= 2 * WIDTH || (left > WIDTH && columns >= 2 * WIDTH);
        int width = wide ? 2 * WIDTH : WIDTH, from = left < width ? columns - width : j;
        for (int i = 0; i < rows; i += HEIGHT) {
            int top = i + HEIGHT > rows ? rows - HEIGHT : i;
            for (int line = 0; line < lines && next < end; line++, next += LINE)
                __builtin_prefetch(next);
            if (wide)
                tile(a, b, c, top, from, inner, 2);
            else
                tile(a, b, c, top, from, inner, 1);
        }
        j += width;
    }
}

int deepfits_supported(void) { return SUPPORTED(); }

/* image (n, l, b, d, d) = rows (n b, d, s t) . [scene (n, l, b, s, s) . columns (n b, s, t d), read as (s t, d)],
   where each matrix is applied to the l planes of its object and band. `count` is n b. Returns 0, or 1 if memory
   cannot be allocated. */
TARGET int deepfits_tangents(float *rows, float *columns, float *scene, float *image, int count, int d, int s, int t,
                             int l, int b) {
    float *part = malloc(sizeof(float) * s * t * d);
    if (!part)
        return 1;
    for (ptrdiff_t k = 0; k < count; k++) {
        struct matrix right = {columns + k * s * t * d, t * d, 1}, left = {rows + k * d * s * t, s * t, 1};
        struct matrix wide = {part, t * d, 1}, tall = {part, d, 1};
        ptrdiff_t next = k + 1 < count ? k + 1 : k;
        for (ptrdiff_t i = 0; i < l; i++) {
            ptrdiff_t plane = (k / b * l + i) * b + k % b;
            struct matrix of_scene = {scene + plane * s * s, s, 1}, out = {image + plane * d * d, d, 1};
            int prefetched = i + 1 < l ? 0 : s * t * d;
            product(of_scene, right, wide, s, t * d, s, columns + next * s * t * d, prefetched);
            product(left, tall, out, d, d, s * t, rows + next * d * s * t, prefetched);
        }
    }
    free(part);
    return 0;
}

/* The same product with one plane per matrix. */
int deepfits_show(float *rows, float *columns, float *scene, float *image, int n, int d, int s, int t) {
    return deepfits_tangents(rows, columns, scene, image, n, d, s, t, 1, 1);
}

/* The adjoint: scene = [rows^T . image, read as (n, s, t d)] . turned, where turned, (n, t d, s), is columns^T. */
TARGET int deepfits_transpose(float *rows, float *turned, float *image, float *scene, int n, int d, int s, int t) {
    float *part = malloc(sizeof(float) * s * t * d);
    if (!part)
        return 1;
    for (ptrdiff_t k = 0; k < n; k++) {
        struct matrix left = {rows + k * d * s * t, 1, s * t}, of_image = {image + k * d * d, d, 1};
        struct matrix right = {turned + k * s * t * d, s, 1}, out = {scene + k * s * s, s, 1};
        struct matrix tall = {part, d, 1}, wide = {part, t * d, 1};
        ptrdiff_t next = k + 1 < n ? k + 1 : k;
        product(left, of_image, tall, s * t, d, d, rows + next * d * s * t, d * s * t);
        product(wide, right, out, s, s, t * d, turned + next * s * t * d, s * t * d);
    }
    free(part);
    return 0;
}
