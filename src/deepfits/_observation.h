/* The products of _observation.c, with vectors of WIDTH floats and tiles of HEIGHT rows; included once for each
   set of instructions, which TARGET names. NAME(x) is x with its name. */

#define INLINE TARGET static inline __attribute__((always_inline))

typedef float NAME(vector) __attribute__((vector_size(4 * WIDTH), aligned(4)));

/* Compute a tile of c = a b: HEIGHT rows from i, vectors * WIDTH columns from j. */
INLINE void NAME(tile)(struct matrix a, struct matrix b, struct matrix c, int i, int j, int inner, int vectors) {
    NAME(vector) sum[HEIGHT][2] = {{{0}}};
    for (int l = 0; l < inner; l++) {
        const float *left = a.at + i * a.row + l * a.column, *right = b.at + l * b.row + j;
        for (int v = 0; v < vectors; v++)
            for (int r = 0; r < HEIGHT; r++)
                sum[r][v] += left[r * a.row] * *(const NAME(vector) *)(right + v * WIDTH);
    }
    for (int r = 0; r < HEIGHT; r++)
        for (int v = 0; v < vectors; v++)
            *(NAME(vector) *)(c.at + (i + r) * c.row + j + v * WIDTH) = sum[r][v];
}

/* c = a b, where the rows of b and c are contiguous, with at least WIDTH columns, and c has at least HEIGHT rows.
   The last tiles overlap the previous ones. Meanwhile `count` floats at `next` are prefetched. */
INLINE void NAME(product)(struct matrix a, struct matrix b, struct matrix c, int rows, int columns, int inner,
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
                NAME(tile)(a, b, c, top, from, inner, 2);
            else
                NAME(tile)(a, b, c, top, from, inner, 1);
        }
        j += width;
    }
}

/* See deepfits_tangents. */
TARGET static int NAME(tangents)(float *rows, float *columns, float *scene, float *image, int count, int d, int s,
                                 int t, int l, int b) {
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
            NAME(product)(of_scene, right, wide, s, t * d, s, columns + next * s * t * d, prefetched);
            NAME(product)(left, tall, out, d, d, s * t, rows + next * d * s * t, prefetched);
        }
    }
    free(part);
    return 0;
}

/* See deepfits_transpose. */
TARGET static int NAME(transpose)(float *rows, float *turned, float *image, float *scene, int n, int d, int s,
                                  int t) {
    float *part = malloc(sizeof(float) * s * t * d);
    if (!part)
        return 1;
    for (ptrdiff_t k = 0; k < n; k++) {
        struct matrix left = {rows + k * d * s * t, 1, s * t}, of_image = {image + k * d * d, d, 1};
        struct matrix right = {turned + k * s * t * d, s, 1}, out = {scene + k * s * s, s, 1};
        struct matrix tall = {part, d, 1}, wide = {part, t * d, 1};
        ptrdiff_t next = k + 1 < n ? k + 1 : k;
        NAME(product)(left, of_image, tall, s * t, d, d, rows + next * d * s * t, d * s * t);
        NAME(product)(wide, right, out, s, s, t * d, turned + next * s * t * d, s * t * d);
    }
    free(part);
    return 0;
}

#undef INLINE
#undef TARGET
#undef NAME
#undef WIDTH
#undef HEIGHT
